"""Point-cloud classification in 3-D: PointNet with any pooling, tested with outliers.

- `data`: loads ModelNet40 (`modelnet`: HDF5, or meshes of `off`) or generated shapes as `clouds`.
- `batches`: training batches and their augmentation.
- `shapes`: the generator of shapes, 16 classes of parametric solids.
- `model`: PointNet, its pooling an argument.
- `train`: trains one network, on one device or under torchrun, resumable.
- `evaluate`: accuracy and mean average precision with 0 to 90% of the points replaced by outliers.
- `table`: trains and tests many, one for each pooling and share of the training clouds.
"""
