// Ships a plan without its weights, puts weights into it elsewhere, and runs it.
//   strip_refit MODEL.onnx FOLDER
// The weights may come from the ONNX file, from safetensors or from shards: see WeightSources.
#include <forebay/forebay.h>

#include <iostream>
#include <string>

namespace {

int report(const forebay::Status& status) {
  std::cout << status.to_string() << '\n';
  for (const forebay::Problem& problem : status.problems()) std::cout << "  " << problem.tensor << ": " << problem.message << '\n';
  return forebay::exit_code(status);
}

// Every unknown dimension is 1 here; a real caller knows its shapes.
forebay::HostTensor ones(const forebay::TensorInfo& info) {
  forebay::Shape shape;
  for (const std::int64_t dim : info.dims) shape.push_back(dim < 0 ? 1 : dim);
  return forebay::HostTensor(info.dtype, shape);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cout << "usage: strip_refit MODEL.onnx FOLDER\n";
    return 2;
  }
  if (const forebay::Status version = forebay::check_version(); !version.ok()) return report(version);
  const std::string model = argv[1], folder = argv[2], stripped = folder + "/stripped.plan", refitted = folder + "/refitted.plan";

  forebay::BuildOptions build_options;
  build_options.strip = true;
  const auto built = forebay::build(model, stripped, build_options);
  if (!built.ok()) return report(built.status());
  std::cout << "the plan has " << built->plan_bytes << " bytes without its " << built->model_weight_bytes << " bytes of weights\n";

  auto plan = forebay::Plan::load(stripped);
  if (!plan.ok()) return report(plan.status());
  forebay::WeightSources sources;
  sources.paths = {model};
  forebay::Refitter refitter(*plan, {});
  forebay::RefitReport missing;
  if (const forebay::Status fits = refitter.check(sources, &missing); !fits.ok()) return report(fits);
  const auto embedded = refitter.embed(sources, refitted);
  if (!embedded.ok()) return report(embedded.status());

  auto whole = forebay::Plan::load(refitted);
  if (!whole.ok()) return report(whole.status());
  auto engine = forebay::Engine::create(*whole, {}, {});
  if (!engine.ok()) return report(engine.status());
  auto context = engine->create_context();
  if (!context.ok()) return report(context.status());
  for (const forebay::TensorInfo& input : whole->inputs()) {
    if (const forebay::Status set = context->set_input(input.name, ones(input)); !set.ok()) return report(set);
  }
  if (const forebay::Status ran = context->execute(); !ran.ok()) return report(ran);
  for (const forebay::TensorInfo& info : whole->outputs()) {
    const auto output = context->output(info.name);
    if (!output.ok()) return report(output.status());
    std::cout << info.name << ' ' << forebay::dtype_name(output->dtype()) << output->shape().to_string() << '\n';
  }
  return 0;
}
