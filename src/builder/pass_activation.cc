// Activations written out: GELU by erf and by tanh, SiLU, QuickGelu, Mish and HardSwish by
// HardSigmoid. All of them are a polynomial in x and one function E of a polynomial in x, so that
// any order of operands, scaling and casts in between is recognised by its coefficients.
#include <array>
#include <cmath>

#include "base/check.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

// Coefficients of x^0..x^3, without E and times E.
using Powers = std::array<double, 4>;
struct Polynomial {
  std::array<Powers, 2> by_e{};
};

constexpr double kSqrtHalf = 0.70710678118654752, kSqrtTwoOverPi = 0.79788456080286536,
                 kCubic = 0.044715;

std::optional<Polynomial> product(const Polynomial& a, const Polynomial& b) {
  Polynomial out;
  for (std::size_t ea = 0; ea < 2; ++ea) {
    for (std::size_t eb = 0; eb < 2; ++eb) {
      for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t j = 0; j < 4; ++j) {
          const double term = a.by_e[ea][i] * b.by_e[eb][j];
          if (term == 0) continue;
          if (ea + eb > 1 || i + j > 3) return std::nullopt;
          out.by_e[ea + eb][i + j] += term;
        }
      }
    }
  }
  return out;
}

std::optional<double> constant_of(const Polynomial& p) {
  Polynomial rest = p;
  rest.by_e[0][0] = 0;
  for (const Powers& powers : rest.by_e)
    for (const double c : powers)
      if (c != 0) return std::nullopt;
  return p.by_e[0][0];
}

// The same up to the rounding of the graph's constants.
bool equal(const Polynomial& p, const Polynomial& wanted, DType dtype) {
  for (std::size_t e = 0; e < 2; ++e)
    for (std::size_t i = 0; i < 4; ++i)
      if (wanted.by_e[e][i] == 0 ? p.by_e[e][i] != 0
                                 : !same_number(p.by_e[e][i], wanted.by_e[e][i], dtype))
        return false;
  return true;
}

struct Found {
  std::string_view op;
  std::int32_t version = 0;
  std::vector<plan::Attribute> attributes;
  Polynomial argument, result;
};

class ActivationPass {
 public:
  explicit ActivationPass(PassContext& context)
      : context_(context), ir_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !node->domain.empty()) continue;
      if (node->op != "Erf" && node->op != "Tanh" && node->op != "Sigmoid" &&
          node->op != "HardSigmoid")
        continue;
      FB_ASSIGN(const bool fused, around(*node));
      made += fused ? 1 : 0;
    }
    ir_.sweep();
    return made;
  }

 private:
  // Tries every value that the function's argument is made of as x: it may itself be a sum or a
  // product.
  Result<bool> around(IrNode& function) {
    pattern_.begin(function);
    std::vector<ValueId> candidates{function.inputs[0]};
    for (std::size_t i = 0; i < candidates.size() && candidates.size() < kMostCandidates; ++i) {
      const IrNode* node = pattern_.maker(candidates[i]);
      if (node == nullptr || (!arithmetic(*node) && node->op != "Softplus")) continue;
      for (const ValueId input : node->inputs)
        if (input != kNone && ir_.values[input].origin != Origin::constant)
          candidates.push_back(input);
    }
    for (const ValueId x : candidates) {
      FB_ASSIGN(const bool fused, with(function, x));
      if (fused) return true;
    }
    return false;
  }

  static bool arithmetic(const IrNode& node) {
    if (node.op == "Cast") return true;
    if (node.op == "Neg") return true;
    return node.version >= 7 && (node.op == "Add" || node.op == "Sub" || node.op == "Mul" ||
                                 node.op == "Div" || node.op == "Pow");
  }

  Result<bool> with(IrNode& function, ValueId x) {
    pattern_.begin(function);
    x_ = x;
    e_ = function.outputs[0];
    ValueId argument = function.inputs[0];
    bool softplus = false;
    if (const IrNode* inner = pattern_.take(argument, "Softplus");
        inner != nullptr && function.op == "Tanh") {
      argument = inner->inputs[0];
      softplus = true;
    }
    const std::optional<Polynomial> inside = polynomial(argument, kMostDepth);
    if (!inside) return false;
    const std::optional<Found> found = identify(function, *inside, softplus);
    if (!found || !same_type(function, x)) return false;
    pattern_.add(function);
    const std::size_t mark = pattern_.mark();
    IrNode* root = pattern_.sole_reader(e_);
    for (int step = 0; root != nullptr && step < kMostDepth;
         ++step, root = pattern_.sole_reader(root->outputs[0])) {
      if (!arithmetic(*root)) break;
      pattern_.back_to(mark);
      const std::optional<Polynomial> whole = polynomial(root->outputs[0], kMostDepth);
      if (!whole || !equal(*whole, found->result, pattern_.type(x).dtype)) continue;
      if (!same_type(*root, x) || !pattern_.closed(*root)) continue;
      FB_TRY(pattern_.become(*root, "", found->op, found->version, {x}, found->attributes));
      return true;
    }
    return false;
  }

  // The function's name and its argument say which activation it can be.
  std::optional<Found> identify(const IrNode& function, const Polynomial& inside,
                                bool softplus) const {
    Found found;
    const DType dtype = pattern_.type(x_).dtype;
    Polynomial &argument = found.argument, &result = found.result;
    const double slope = inside.by_e[0][1];
    argument.by_e[0][1] = 1;
    result.by_e[1][1] = 1;  // x * E
    if (softplus) {
      found.op = "Mish";
      found.version = 18;
    } else if (function.op == "Sigmoid") {
      found.op = "Swish";
      found.version = 24;
      if (!(slope > 0)) return std::nullopt;
      argument.by_e[0][1] = slope;
      if (slope != 1) found.attributes.push_back({"alpha", static_cast<float>(slope)});
    } else if (function.op == "HardSigmoid") {
      found.op = "HardSwish";
      found.version = 14;
      const NodeView view = ir_.view(function);
      if (!same_number(static_cast<double>(view.real("alpha", 0.2f)), 1.0 / 6, DType::f32) ||
          view.real("beta", 0.5f) != 0.5f)
        return std::nullopt;
    } else {
      found.op = "Gelu";
      found.version = 20;
      result.by_e[1][1] = result.by_e[0][1] = 0.5;  // x * (1 + E) / 2
      const bool erf = function.op == "Erf";
      argument.by_e[0][1] = erf ? kSqrtHalf : kSqrtTwoOverPi;
      if (!erf) {
        argument.by_e[0][3] = kSqrtTwoOverPi * kCubic;
        found.attributes.push_back({"approximate", std::string("tanh")});
      }
    }
    const bool served = context_.registry.find("", found.op, found.version) != nullptr;
    return served && equal(inside, argument, dtype) ? std::optional(found) : std::nullopt;
  }

  bool same_type(const IrNode& root, ValueId x) const {
    const TypeShape &a = pattern_.type(x), &y = pattern_.type(root.outputs[0]);
    return a.dtype == y.dtype && a.dtype != DType::f64 && a.has_rank && y.has_rank &&
           a.dims.size() == y.dims.size();
  }

  // The value as a polynomial in x_ and e_; what it is made of becomes part of the match.
  std::optional<Polynomial> polynomial(ValueId id, int depth) {
    Polynomial out;
    if (id == x_) {
      out.by_e[0][1] = 1;
      return out;
    }
    if (id == e_) {
      out.by_e[1][0] = 1;
      return out;
    }
    if (const std::optional<double> number = pattern_.number(id)) {
      out.by_e[0][0] = *number;
      return out;
    }
    IrNode* node = depth > 0 ? pattern_.maker(id) : nullptr;
    if (node == nullptr || !arithmetic(*node)) return std::nullopt;
    pattern_.add(*node);
    if (node->op == "Cast") {
      const ValueId from = pattern_.through_casts(id);
      return from != id ? polynomial(from, depth - 1) : std::nullopt;
    }
    const std::optional<Polynomial> a = polynomial(node->inputs[0], depth - 1);
    if (!a) return std::nullopt;
    if (node->op == "Neg") return scaled(*a, -1);
    const std::optional<Polynomial> b = polynomial(node->inputs[1], depth - 1);
    if (!b) return std::nullopt;
    if (node->op == "Mul") return product(*a, *b);
    if (node->op == "Add" || node->op == "Sub")
      return sum(*a, node->op == "Add" ? *b : scaled(*b, -1));
    const std::optional<double> number = constant_of(*b);
    if (!number || *number == 0) return std::nullopt;
    if (node->op == "Div") return scaled(*a, 1 / *number);
    return power(*a, *number);
  }

  static Polynomial scaled(Polynomial p, double by) {
    for (Powers& powers : p.by_e)
      for (double& c : powers) c *= by;
    return p;
  }
  static Polynomial sum(Polynomial a, const Polynomial& b) {
    for (std::size_t e = 0; e < 2; ++e)
      for (std::size_t i = 0; i < 4; ++i) a.by_e[e][i] += b.by_e[e][i];
    return a;
  }
  static std::optional<Polynomial> power(const Polynomial& a, double exponent) {
    if (exponent == 2) return product(a, a);
    if (exponent != 3) return std::nullopt;
    const std::optional<Polynomial> square = product(a, a);
    return square ? product(*square, a) : std::nullopt;
  }

  static constexpr int kMostDepth = 8;
  static constexpr std::size_t kMostCandidates = 16;

  PassContext& context_;
  Ir& ir_;
  Pattern pattern_;
  ValueId x_ = kNone, e_ = kNone;
};

}  // namespace

Result<std::size_t> pass_activation(PassContext& context) {
  return ActivationPass(context).run();
}

}  // namespace forebay::builder
