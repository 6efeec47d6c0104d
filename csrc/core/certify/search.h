// The certified global minimum of a non-convex objective. The penalty's Certificate selects the
// method; docs/global.md derives both.
#pragma once

#include "core/certify/gaussian_search.h"
#include "core/certify/parabola_search.h"

namespace ddn {

template <Certificate certificate, class P, class Set>
struct CertifiedSearch;
template <class P, class Set>
struct CertifiedSearch<Certificate::gaussian, P, Set> {
  using type = GaussianSearch<P, Set>;
};
template <class P, class Set>
struct CertifiedSearch<Certificate::parabola, P, Set> {
  using type = ParabolaSearch<P, Set>;
};

template <class P, class Set>
DDN_HOST_DEVICE Global find_global_minimum(const Set& set, const SetStatistics& statistics,
                                           const Problem& problem, int64_t& passes_left) {
  return
      typename CertifiedSearch<P::certificate, P, Set>::type(set, statistics, problem, passes_left)
          .run();
}

}  // namespace ddn
