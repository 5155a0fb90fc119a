// Links the whole library: a model that is not there is refused with its name.
#include <forebay/forebay.h>

#include <iostream>

int main() {
  if (!forebay::check_version().ok()) return 1;
  const auto built = forebay::build("/nonexistent/model.onnx", "/nonexistent/model.plan", {});
  if (built.ok()) return 1;
  std::cout << "forebay " << forebay::version_string() << ": " << built.status().to_string() << '\n';
  return forebay::exit_code(built.status()) == 8 ? 0 : 1;
}
