"""Compares aggregations in a graph network when the features of some neighbours are corrupted.

Two data sets of scikit-learn as graphs, in which each sample is a node connected to its 10
nearest neighbours: 1,797 handwritten digits and 569 tissue samples (breast cancer). Two-layer
GraphSAGE networks that differ only in their aggregation are trained on the clean features of 30%
of the nodes. They are tested on the others after the features of a share of all nodes have been
replaced:

    noise     by normal numbers of standard deviation 10; features have standard deviation 1
    swapped   by the features of another node, drawn at random: nothing is out of range

The accuracy is over the test nodes whose own features are intact, so it isolates the effect of
their neighbours. The graph is built from the clean features: links are reliable, features are
not. Nothing is tuned: features have standard deviation 1, alpha is 1. Each seed draws a split,
initial weights and corrupted nodes; figures are means over the seeds with their standard
deviation.

Prints the table of docs/graphs.md and writes it with machine, versions and commit to JSON.

    python -m examples.neighbours
    python -m examples.neighbours --show bench/results/neighbours.json

Source of the network: W. L. Hamilton, R. Ying, J. Leskovec, "Inductive Representation Learning on
Large Graphs", 2017.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.neighbors import kneighbors_graph
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_geometric.nn import SAGEConv
from torch_geometric.nn import aggr as pyg
from tqdm import tqdm

from bench import machine
from ddn_cuda.pyg import RobustAggregation
from examples import digits

NEIGHBOURS = 10
TRAIN_SHARE = 0.3
HIDDEN = 64
NOISE = 10.0
CORRUPTED_PERCENT = (0, 10, 20, 30, 40)
ALPHA = 1.0

AGGREGATIONS: dict[str, Callable[[], nn.Module]] = {
    "mean": pyg.MeanAggregation,
    "max": pyg.MaxAggregation,
    "median": pyg.MedianAggregation,
    "huber": lambda: RobustAggregation("huber", ALPHA),
    "welsch": lambda: RobustAggregation("welsch", ALPHA),
    "truncated_quadratic": lambda: RobustAggregation("truncated_quadratic", ALPHA),
}
DATA_SETS = {"digits": load_digits, "breast cancer": load_breast_cancer}

Row = dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """Samples and their neighbours.

    Attributes:
        x: float32 (n, features), each of mean 0 and standard deviation 1; a constant feature is 0.
        y: int64 (n,), classes.
        edges: int64 (2, n * 10): from each node's neighbours to it, grouped by the latter.
    """

    x: Tensor
    y: Tensor
    edges: Tensor


def load(name: str) -> Graph:
    """The graph of a data set of :data:`DATA_SETS`."""
    features, classes = DATA_SETS[name](return_X_y=True)
    x = torch.from_numpy(features).float()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    nearest = kneighbors_graph(x.numpy(), NEIGHBOURS).tocoo()
    edges = torch.stack([torch.from_numpy(part).long() for part in (nearest.col, nearest.row)])
    return Graph(x, torch.from_numpy(classes).long(), edges)


def corrupt(x: Tensor, kind: str, share: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replaces the features of a random share of the nodes.

    Generators in the same state choose nested nodes.

    Args:
        x: (n, features).
        kind: "noise" or "swapped", see the top of this file.
        share: 0 to 1.
        random: the source of all randomness.

    Returns:
        New features, and a mask (n,) of the intact nodes.
    """
    n = len(x)
    order = torch.randperm(n, generator=random)
    if kind == "noise":
        wrong = NOISE * torch.randn(x.shape, generator=random)
    else:
        wrong = x[(torch.arange(n) + torch.randint(1, n, (n,), generator=random)) % n]
    intact = torch.ones(n, dtype=torch.bool)
    intact[order[: round(share * n)]] = False
    return torch.where(intact.unsqueeze(1), x, wrong), intact


class Network(nn.Module):
    """Two layers of GraphSAGE with a batch norm between them: alpha = 1 is one deviation."""

    def __init__(self, features: int, classes: int, aggregation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = SAGEConv(features, HIDDEN, aggr=aggregation())
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.second = SAGEConv(HIDDEN, classes, aggr=aggregation())

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        logits: Tensor = self.second(self.norm(self.first(x, edges)).relu(), edges)
        return logits


def accuracies(graph: Graph, aggregation: Callable[[], nn.Module], epochs: int, seed: int) -> Row:
    """Train one network, and test it: per kind of corruption, accuracies in percent."""
    random = torch.Generator().manual_seed(seed)
    n = len(graph.y)
    order = torch.randperm(n, generator=random)
    train, test = order[: round(TRAIN_SHARE * n)], order[round(TRAIN_SHARE * n) :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(graph.x.size(1), int(graph.y.max()) + 1, aggregation)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(epochs):
        loss = cross_entropy(model(graph.x, graph.edges)[train], graph.y[train])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    found: Row = {}
    for kind in ("noise", "swapped"):
        state = random.get_state()
        found[kind] = []
        for percentage in CORRUPTED_PERCENT:
            random.set_state(state)
            x, intact = corrupt(graph.x, kind, percentage / 100, random)
            asked = test[intact[test]]
            with torch.no_grad():
                guessed = model(x, graph.edges)[asked].argmax(1)
            found[kind].append(100 * (guessed == graph.y[asked]).double().mean().item())
    return found


def measure(epochs: int, seeds: int) -> Row:
    """All figures, with the machine and versions they were measured on."""
    start = time.perf_counter()
    rows: list[Row] = []
    bar = tqdm(total=len(DATA_SETS) * len(AGGREGATIONS) * seeds, unit="network")
    for data in DATA_SETS:
        graph = load(data)
        for name, aggregation in AGGREGATIONS.items():
            runs = []
            for seed in range(seeds):
                runs.append(accuracies(graph, aggregation, epochs, seed))
                bar.update()
            for kind in runs[0]:
                columns = list(zip(*(run[kind] for run in runs), strict=True))
                rows.append(
                    {
                        "data": data,
                        "corruption": kind,
                        "aggregation": name,
                        "accuracy": [round(mean(column), 2) for column in columns],
                        "deviation": [round(pstdev(column), 2) for column in columns],
                    }
                )
    bar.close()
    rows.sort(key=lambda row: (list(DATA_SETS).index(row["data"]), row["corruption"]))
    return {
        "command": f"python -m examples.neighbours --epochs {epochs} --seeds {seeds}",
        "settings": {"epochs": epochs, "seeds": seeds, "neighbours": NEIGHBOURS, "alpha": ALPHA,
                     "hidden": HIDDEN, "train_share": TRAIN_SHARE, "noise": NOISE},
        "corrupted_percent": list(CORRUPTED_PERCENT),
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine.describe(),
        "versions": digits.settings(argparse.Namespace())["versions"],
        "commit": machine.commit(),
        "rows": rows,
    }  # fmt: skip


def as_table(result: Row) -> str:
    """The figures as a Markdown table: mean and standard deviation over the seeds."""
    head = ["data", "corruption", "aggregation", *(f"{p}%" for p in result["corrupted_percent"])]
    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        pairs = zip(row["accuracy"], row["deviation"], strict=True)
        cells = [f"{middle:.1f} ± {deviation:.1f}" for middle, deviation in pairs]
        lines.append([row["data"], row["corruption"], f"`{row['aggregation']}`", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.neighbours",
        description="Classify nodes of a graph some of whose features are corrupted, with the "
        "aggregations of PyTorch Geometric and of ddn_cuda.",
    )
    add = parser.add_argument
    add("--epochs", type=digits.at_least(1), default=30, help="default: %(default)s")
    add("--seeds", type=digits.at_least(1), default=5, help="networks each (default: %(default)s)")
    add("--threads", type=digits.at_least(1), default=1, help="CPU threads (default: %(default)s)")
    add("--output", type=Path, default=Path("demo-output/neighbours.json"), metavar="JSON",
        help="default: %(default)s")  # fmt: skip
    add("--show", type=Path, metavar="JSON", help="only print the table of an earlier run")
    args = parser.parse_args(argv)
    try:
        if args.show:
            result = digits.read_json(args.show, "rows", "corrupted_percent")
        else:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            with digits.repeatable(args.threads, torch.device("cpu")):
                result = measure(args.epochs, args.seeds)
            args.output.write_text(json.dumps(result, indent=1) + "\n")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(as_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
