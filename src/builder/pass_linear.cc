#include "base/check.h"
#include "builder/passes.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

class LinearPass {
 public:
  explicit LinearPass(PassContext& context)
      : context_(context),
        ir_(context.ir),
        has_linear_(context.registry.find("forebay", "Linear", 1) != nullptr),
        has_fused_(context.registry.find("com.microsoft", "FusedMatMul", 1) != nullptr) {}

  Result<std::size_t> run() {
    const ValueNeeds needs(ir_, context_.registry);
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      const ValueId table = transposed_table(*node, needs);
      if (table == kNone) continue;
      if (has_linear_) {
        make_linear(*node, table);
      } else if (has_fused_) {
        make_fused(*node, table);
      } else if (fits_gemm(*node)) {
        make_gemm(*node, table);
      } else {
        continue;
      }
      FB_TRY(context_.types.infer_added(*node));
      ++made;
    }
    if (has_linear_) FB_TRY(fuse_bias(needs));
    ir_.sweep();
    return made;
  }

 private:
  // W of MatMul(x, Transpose(W)), W being a matrix of the file or made from such.
  ValueId transposed_table(const IrNode& node, const ValueNeeds& needs) const {
    if (!node.domain.empty() || node.op != "MatMul" || node.inputs.size() != 2 || node.inputs[0] == kNone || node.inputs[1] == kNone)
      return kNone;
    const IrNode* transpose = ir_.values[node.inputs[1]].producer;
    if (transpose == nullptr || !transpose->domain.empty() || transpose->op != "Transpose" || needs.fixed(node.inputs[0])) return kNone;
    const ValueId table = transpose->inputs[0];
    const TypeShape& type = ir_.values[table].type;
    if (!needs.fixed(table) || !type.known() || type.dims.size() != 2 || !dtype_is_float(type.dtype)) return kNone;
    const auto perm = ir_.view(*transpose).integers("perm");
    if (!perm.empty() && (perm[0] != 1 || perm[1] != 0)) return kNone;
    const TypeShape& x = ir_.values[node.inputs[0]].type;
    return x.has_rank && !x.dims.empty() ? table : kNone;
  }

  bool fits_gemm(const IrNode& node) const { return ir_.values[node.inputs[0]].type.dims.size() == 2; }

  void make_linear(IrNode& node, ValueId table) const {
    node.domain = "forebay";
    node.op = "Linear";
    node.version = 1;
    node.inputs[1] = table;
  }

  void make_fused(IrNode& node, ValueId table) const {
    node.domain = "com.microsoft";
    node.op = "FusedMatMul";
    node.version = 1;
    node.inputs[1] = table;
    node.attributes.push_back({"transB", std::int64_t{1}});
  }

  void make_gemm(IrNode& node, ValueId table) const {
    node.op = "Gemm";
    node.version = kPassOpset;
    node.inputs[1] = table;
    node.attributes.clear();
    node.attributes.push_back({"transB", std::int64_t{1}});
  }

  // Linear without bias followed by an Add of a fixed vector of its width.
  Status fuse_bias(const ValueNeeds& needs) {
    const UseIndex uses(ir_);
    for (IrNode* add : execution_order(ir_)) {
      if (!add->domain.empty() || add->op != "Add" || add->version < 7 || add->inputs.size() != 2) continue;
      for (std::size_t side = 0; side < 2; ++side) {
        IrNode* linear = add->inputs[side] != kNone ? ir_.values[add->inputs[side]].producer : nullptr;
        const ValueId bias = add->inputs[1 - side];
        if (linear == nullptr || linear->removed || linear->domain != "forebay" || linear->op != "Linear" || linear->inputs.size() != 2)
          continue;
        if (linear->graph != add->graph || bias == kNone || !needs.fixed(bias) || !uses.single_use(add->inputs[side])) continue;
        const TypeShape& table = ir_.values[linear->inputs[1]].type;
        const TypeShape& type = ir_.values[bias].type;
        if (type.dtype != table.dtype || type.dims.size() != 1 || type.dims[0] != table.dims[0]) continue;
        // The sum takes the place of the Add, so that a bias made just before it is defined by then.
        add->fused_from = {linear->name, add->name};
        const std::vector<ValueId> inputs{linear->inputs[0], linear->inputs[1], bias};
        make_linear(*add, linear->inputs[1]);
        add->inputs = inputs;
        add->attributes = linear->attributes;
        linear->removed = true;
        FB_TRY(context_.types.infer_added(*add));
        break;
      }
    }
    return {};
  }

  PassContext& context_;
  Ir& ir_;
  bool has_linear_, has_fused_;
};

}  // namespace

Result<std::size_t> pass_linear(PassContext& context) { return LinearPass(context).run(); }

}  // namespace forebay::builder
