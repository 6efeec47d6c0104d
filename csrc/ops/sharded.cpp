// Sets whose points lie on several ranks, for ddn_cuda/_sharded.py: the state of their solves, and
// the passes over this rank's points as an operator.
#include "ops/sharded.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>
#include <tuple>
#include <vector>

#include "core/sharded_solve.h"

namespace ddn {
namespace {

struct Requests {
  std::vector<int64_t> sets;
  std::vector<PassRequest> parameters;
};
constexpr int passes = static_cast<int>(ShardedPass::losses) + 1;

// The solves of all sets.
class Solves {
 public:
  virtual ~Solves() = default;
  // The requests for each pass.
  virtual std::vector<Requests> requests() = 0;
  // numbers: for each pass the numbers of all its requests.
  virtual void take(const std::vector<const double*>& numbers) = 0;
  // Arrays of [sets].
  virtual void answers(double* y, bool* is_open) const = 0;
  virtual void curvatures(const double* summed, double* curvatures) const = 0;
  virtual bool any_empty() const = 0;
};

template <class P, class Real>
class SolvesOf : public Solves {
 public:
  SolvesOf(const double* alpha, const double* own, int64_t sets, const ShardedOptions& options) {
    for (int64_t i = 0; i < sets; ++i) solves_.emplace_back(alpha[i], own[i], options);
  }

  std::vector<Requests> requests() override {
    std::vector<Requests> all(passes);
    for (size_t i = 0; i < solves_.size(); ++i) {
      solves_[i].requests([&](ShardedPass pass, const PassRequest& request) {
        all[static_cast<size_t>(pass)].sets.push_back(static_cast<int64_t>(i));
        all[static_cast<size_t>(pass)].parameters.push_back(request);
      });
    }
    return all;
  }
  void take(const std::vector<const double*>& numbers) override {
    std::vector<const double*> at = numbers;
    for (auto& solve : solves_) {
      solve.take([&](ShardedPass pass) {
        const double*& next = at[static_cast<size_t>(pass)];
        const double* const here = next;
        with_sharded_pass(pass, penalty, [&](auto p) { next += decltype(p)::numbers; });
        return here;
      });
    }
  }
  void answers(double* y, bool* is_open) const override {
    for (const auto& solve : solves_) {
      *y++ = solve.answer();
      *is_open++ = solve.is_open();
    }
  }
  void curvatures(const double* summed, double* curvatures) const override {
    for (const auto& solve : solves_) *curvatures++ = solve.curvature(*summed++);
  }
  bool any_empty() const override {
    for (const auto& solve : solves_) {
      if (solve.is_empty()) return true;
    }
    return false;
  }

 private:
  static constexpr int penalty = number_of<P>(Penalties{});
  std::vector<ShardedSolve<P, Real>> solves_;
};

// The solves of all sets as a Python class. All tensors are on the CPU.
struct ShardedSolves : torch::CustomClassHolder {
  // alpha, own: [sets] in double precision; see ShardedSolve. is_double: whether the points are.
  ShardedSolves(const std::string& penalty, const at::Tensor& alpha, const at::Tensor& own,
                bool is_double, bool weighted, const std::string& solver,
                std::optional<int64_t> max_iter, std::optional<double> tol)
      : penalty_(sharded_checks.penalty(penalty)) {
    const ShardedOptions options{weighted, solver == "global", max_iter.value_or(-1),
                                 tol.value_or(-1)};
    const at::Tensor alphas = alpha.contiguous(), owns = own.contiguous();
    with_penalty(penalty_, [&](auto p) {
      using P = decltype(p);
      const auto make = [&](auto real) {
        solves_ = std::make_unique<SolvesOf<P, decltype(real)>>(alphas.const_data_ptr<double>(),
                                                                owns.const_data_ptr<double>(),
                                                                alphas.numel(), options);
      };
      is_double ? make(double{}) : make(float{});
    });
    sets_ = alphas.numel();
  }

  // The passes to run and all-reduce next, none once all sets are solved: (pass, whether its
  // numbers are maxima and not sums, and `sets` and `parameters` of _sharded_pass).
  using Round = std::vector<std::tuple<int64_t, bool, at::Tensor, at::Tensor>>;
  Round requests() {
    Round round;
    asked_.clear();
    const std::vector<Requests> all = solves_->requests();
    for (int pass = 0; pass < passes; ++pass) {
      const Requests& of = all[static_cast<size_t>(pass)];
      if (of.sets.empty()) continue;
      const auto count = static_cast<int64_t>(of.sets.size());
      const at::Tensor sets = at::empty({count}, at::kLong);
      const at::Tensor parameters = at::empty({count, request_numbers}, at::kDouble);
      std::copy(of.sets.begin(), of.sets.end(), sets.mutable_data_ptr<int64_t>());
      std::copy(of.parameters.begin(), of.parameters.end(),
                static_cast<PassRequest*>(parameters.mutable_data_ptr()));
      bool is_maximum = false;
      with_sharded_pass(static_cast<ShardedPass>(pass), penalty_,
                        [&](auto p) { is_maximum = decltype(p)::is_maximum; });
      asked_.push_back(pass);
      round.emplace_back(pass, is_maximum, sets, parameters);
    }
    return round;
  }

  // numbers: the all-reduced result of _sharded_pass for each request of the round.
  void take(const std::vector<at::Tensor>& numbers) {
    TORCH_CHECK(numbers.size() == asked_.size(), "sharded_robust_pool: ", numbers.size(),
                " answers to ", asked_.size(), " requests; expected one each");
    std::vector<at::Tensor> kept;
    std::vector<const double*> by_pass(passes, nullptr);
    for (size_t i = 0; i < asked_.size(); ++i) {
      kept.push_back(numbers[i].contiguous());
      by_pass[static_cast<size_t>(asked_[i])] = kept.back().const_data_ptr<double>();
    }
    solves_->take(by_pass);
  }

  // The answers, and for which of them curvatures() needs the summed curvature.
  std::tuple<at::Tensor, at::Tensor> answers() {
    const at::Tensor y = at::empty({sets_}, at::kDouble), is_open = at::empty({sets_}, at::kBool);
    solves_->answers(y.mutable_data_ptr<double>(), is_open.mutable_data_ptr<bool>());
    return {y, is_open};
  }
  at::Tensor curvatures(const at::Tensor& summed) {
    at::Tensor curvatures = at::empty({sets_}, at::kDouble);
    solves_->curvatures(summed.contiguous().const_data_ptr<double>(),
                        curvatures.mutable_data_ptr<double>());
    return curvatures;
  }
  bool any_empty() { return solves_->any_empty(); }

 private:
  int penalty_;
  int64_t sets_ = 0;
  std::unique_ptr<Solves> solves_;
  std::vector<int> asked_;  // the passes of this round
};

void check_on_cpu(const char* name, const at::Tensor& t, at::ScalarType dtype,
                  at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(t.device().is_cpu() && t.scalar_type() == dtype && t.sizes() == shape,
                    sharded_checks.op, ": `", name, "` has shape ", t.sizes(), " and dtype ",
                    t.scalar_type(), " on ", t.device(), "; expected shape ", shape, " and dtype ",
                    dtype, " on cpu");
}

}  // namespace

ShardedLaunch::ShardedLaunch(const at::Tensor& x, const OptionalTensor& weight, at::IntArrayRef dim,
                             const at::Tensor& sets, const at::Tensor& parameters,
                             c10::string_view penalty, int64_t pass)
    : operands({x, penalty, 1.0, std::nullopt, weight, std::nullopt, dim}),
      sets(sets.contiguous()),
      parameters(parameters.contiguous()) {
  const Checks& checks = sharded_checks;
  const int number = checks.penalty(penalty);
  checks.points(x);
  if (weight.has_value()) checks.weight(*weight, x);
  operands.describe();
  operands.fill_in(args, 1.0, number);
  args.pass = static_cast<ShardedPass>(pass);
  int count = 0;
  if (0 <= pass && pass < passes) {
    with_sharded_pass(args.pass, number, [&](auto p) { count = decltype(p)::numbers; });
  }
  TORCH_CHECK_VALUE(count > 0, checks.op, ": `pass` is ", pass, "; expected one for ", penalty);
  args.requests = sets.numel();
  check_on_cpu("sets", sets, at::kLong, {args.requests});
  check_on_cpu("parameters", parameters, at::kDouble, {args.requests, request_numbers});
  args.sets = this->sets.const_data_ptr<int64_t>();
  int64_t previous = 0;
  for (int64_t i = 0; i < args.requests; ++i) {
    TORCH_CHECK_VALUE(previous <= args.sets[i] && args.sets[i] < args.layout.num_sets, checks.op,
                      ": `sets` holds ", args.sets[i], "; expected ascending numbers of sets");
    previous = args.sets[i];
  }
  args.parameters = static_cast<const PassRequest*>(this->parameters.const_data_ptr());
  numbers = at::empty({args.requests, count}, x.options().dtype(at::kDouble));
  args.numbers = numbers.mutable_data_ptr<double>();
}

TORCH_LIBRARY_FRAGMENT(ddn, m) {
  m.class_<ShardedSolves>("ShardedSolves")
      .def(torch::init<const std::string&, const at::Tensor&, const at::Tensor&, bool, bool,
                       const std::string&, std::optional<int64_t>, std::optional<double>>())
      .def("requests", &ShardedSolves::requests)
      .def("take", &ShardedSolves::take)
      .def("answers", &ShardedSolves::answers)
      .def("curvatures", &ShardedSolves::curvatures)
      .def("any_empty", &ShardedSolves::any_empty);
  m.def(
      "_sharded_pass(Tensor x, Tensor? weight, int[] dim, Tensor sets, Tensor parameters, "
      "str penalty, int pass_) -> Tensor");
}

}  // namespace ddn
