// Links the runtime component: loading, refitting, running; no builder.
#include <forebay/forebay.h>

#include <iostream>

int main() {
  const auto plan = forebay::Plan::load("/nonexistent/model.plan");
  if (plan.ok()) return 1;
  const auto budget = forebay::Budget::parse("25%");
  std::cout << plan.status().to_string() << '\n';
  return budget.ok() ? 0 : 1;
}
