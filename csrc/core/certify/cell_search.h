// The global minimum of a set whose points lie on several ranks: branch and bound over cells, from
// sums over the points alone. Runs on the host. docs/distributed_search.md derives the bounds and
// says what is proved.
//
// In each round the search requests the sums of cells() by pass(), until there are no cells. A
// descent from one of candidates() then reaches the minimum.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/sharded_pass.h"

namespace ddn {

struct SearchedCell {
  double centre, radius;
  double bound;  // upper bound of its density, inherited from the cell that it was cut from
};

struct Candidate {
  double u, density;
};

// The densities attained so far, and the thresholds that follow from the best one.
class AttainedDensity {
 public:
  // A loss is mass minus density: the objective in units of phi(inf). excess: the allowed excess of
  // the loss, relative. rounding: the relative difference up to which two losses count as equal.
  AttainedDensity(double alpha, double mass, double excess, double rounding)
      : alpha_(alpha), mass_(mass), excess_(excess), rounding_(rounding) {}

  double alpha() const { return alpha_; }
  double mass() const { return mass_; }
  double best() const { return best_.density; }
  // A cell whose density is bounded by this threshold is discarded.
  double discard_threshold() const { return best() + density_tolerance(); }
  double density_tolerance() const {
    return max(0.25 * excess_ * (mass_ - best()), sum_rounding * mass_);
  }
  // A lower density is worse than the best one by more than rounding.
  double known() const { return best() - 2 * doubt(mass_ - best()) - sum_rounding * mass_; }
  bool is_left(double u) const { return u < best_.u; }
  double doubt(double loss) const { return max(rounding_ * loss, 4e-16 * mass_); }

  void offer(double u, double density) {
    if (density > best_.density) best_ = {u, density};
    if (density >= best_.density - 1e-3 * mass_) offers_.push_back({u, density});
  }

  // Starts of the descents that reach the minimum. Of places closer together than alpha / 1000 only
  // the one with the largest density is kept.
  std::vector<double> candidates() {
    // A descent never lowers the density: each one from here ends at least as high.
    const double least = best() - 1e-7 * mass_ - 2 * density_tolerance();
    std::sort(offers_.begin(), offers_.end(),
              [](const Candidate& a, const Candidate& b) { return a.u < b.u; });
    std::vector<double> places;
    Candidate last{-detail::infinity, 0};
    double previous = -detail::infinity;
    for (const Candidate& offer : offers_) {
      if (!(offer.density >= least)) continue;
      if (!(offer.u - previous <= 1e-3 * alpha_)) {
        places.push_back(offer.u);
        last = offer;
      } else if (offer.density > last.density) {
        places.back() = offer.u;
        last = offer;
      }
      previous = offer.u;
    }
    return places;
  }

 private:
  static constexpr double sum_rounding = 4e-15;  // of a density, in units of the mass

  double alpha_, mass_, excess_, rounding_;
  Candidate best_{0, -detail::infinity};
  std::vector<Candidate> offers_;
};

// The cells of a certificate: the passes over long and short ones, and resolve() for each, which
// offers the densities that it finds attained and returns an upper bound of the density in the
// cell, or -inf if the cell need not be searched further.
template <Certificate certificate>
struct CellsOf;

template <>
struct CellsOf<Certificate::gaussian> {
  static constexpr double shortest = Series::radius;  // of cells with a series, in units of alpha
  static constexpr ShardedPass long_pass = ShardedPass::gaussians, short_pass = ShardedPass::series;

  static double resolve(const SearchedCell& cell, const double* sums, AttainedDensity& attained) {
    attained.offer(cell.centre, sums[1]);
    return sums[0];
  }
  static double resolve_short(const SearchedCell& cell, const double* sums,
                              AttainedDensity& attained) {
    Series series;
    std::copy(sums, sums + Series::terms, series.c);
    const bool left = attained.is_left(cell.centre);
    const double tolerance = left ? 4e-16 * attained.mass() : attained.density_tolerance();
    const double radius = cell.radius / attained.alpha() * (1 + 1e-9);
    const Maximum top = maximise(series, radius, attained.known(), tolerance);
    if (top.found) {
      const double floor = top.value - attained.doubt(attained.mass() - top.value);
      const Maximum first = leftmost(series, radius, floor, top);
      attained.offer(added(cell.centre, attained.alpha(), top.t), top.value);
      if (first.t != top.t) {
        attained.offer(added(cell.centre, attained.alpha(), first.t), first.value);
      }
    }
    return -detail::infinity;
  }
};

template <>
struct CellsOf<Certificate::parabola> {
  static constexpr double shortest = 0;
  static constexpr ShardedPass long_pass = ShardedPass::parabolas, short_pass = long_pass;

  static double resolve(const SearchedCell& cell, const double* sums, AttainedDensity& attained) {
    const double mass = sums[0], moment = sums[1], density = sums[2], others = sums[3];
    const double radius = cell.radius / attained.alpha();
    attained.offer(cell.centre, sums[4]);
    // The parabola of the inliers on the whole cell.
    const double place = mass > 0 ? clip(-moment / mass, radius) : 0;
    const double top = density - place * (2 * moment + mass * place);
    if (others == 0) {
      attained.offer(added(cell.centre, attained.alpha(), place), top);
      return -detail::infinity;
    }
    // From the centre to a global maximum in the cell the density rises by at most mass radius^2.
    return min(top + others, sums[4] + attained.mass() * radius * radius);
  }
  static double resolve_short(const SearchedCell& cell, const double* sums,
                              AttainedDensity& attained) {
    return resolve(cell, sums, attained);
  }
};

template <class P>
class CellSearch {
  using Cells = CellsOf<P::certificate>;

 public:
  // Starts from a known local minimum u. [lo, hi]: the range of the points.
  CellSearch(double lo, double hi, const AttainedDensity& attained, double u, double density)
      : attained_(attained) {
    attained_.offer(u, density);
    // A short range begins with cells that are short enough for a series.
    const double wanted = ::ceil((hi - lo) / (2 * Series::radius * attained.alpha()));
    cut({0.5 * lo + 0.5 * hi, 0.5 * hi - 0.5 * lo, detail::infinity},
        static_cast<int>(max(min(wanted, 16.0), 1.0)));
    choose();
  }

  bool done() const { return cells_.empty(); }
  ShardedPass pass() const { return takes_short_ ? Cells::short_pass : Cells::long_pass; }
  const std::vector<SearchedCell>& cells() const { return cells_; }

  // next(): the sums of the next cell.
  template <class Next>
  void take(const Next& next) {
    const std::vector<SearchedCell> cells = std::move(cells_);
    cells_.clear();
    std::vector<SearchedCell> resolved;
    for (SearchedCell cell : cells) {
      const double* const sums = next();
      cell.bound = takes_short_ ? Cells::resolve_short(cell, sums, attained_)
                                : Cells::resolve(cell, sums, attained_);
      resolved.push_back(cell);
    }
    for (const SearchedCell& cell : resolved) {
      // A cell at the spacing of floating-point numbers is represented by its centre.
      const bool fine = cell.radius > 4e-16 * ::fabs(cell.centre);
      if (!(fine && cell.bound > attained_.discard_threshold())) continue;
      const double wanted =
          ::ceil(cell.radius / (shortest() > 0 ? shortest() : cell.radius / parts));
      cut(cell, static_cast<int>(max(min(wanted, 1.0 * parts), 2.0)));
    }
    choose();
  }

  std::vector<double> candidates() { return attained_.candidates(); }
  double doubt(double loss) const { return attained_.doubt(loss); }

 private:
  static constexpr int parts = 8;  // into which a cell is cut, at most
  double shortest() const { return Cells::shortest * attained_.alpha(); }

  void cut(const SearchedCell& cell, int count) {
    for (int i = 0; i < count; ++i) {
      const SearchedCell part{added(cell.centre, cell.radius, (2.0 * i + 1 - count) / count),
                              cell.radius / count, cell.bound};
      (part.radius <= shortest() * (1 + 1e-9) ? short_ : cells_).push_back(part);
    }
  }
  // The next cells. Short ones come last, when the attained density discards most of them.
  void choose() {
    takes_short_ = cells_.empty();
    if (!takes_short_) return;
    for (const SearchedCell& cell : short_) {
      if (cell.bound > attained_.discard_threshold()) cells_.push_back(cell);
    }
    short_.clear();
  }

  AttainedDensity attained_;
  std::vector<SearchedCell> cells_, short_;
  bool takes_short_ = false;
};

}  // namespace ddn
