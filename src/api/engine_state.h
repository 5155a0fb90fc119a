// What the public Engine and its contexts share.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "forebay/engine.h"
#include "plan/binding.h"
#include "runtime/engine_core.h"

namespace forebay {

struct Engine::State {
  explicit State(Plan p) : plan(std::move(p)) {}
  Plan plan;
  EngineOptions options;
  Logger* logger = nullptr;
  DirectIo direct = DirectIo::prefer;
  std::mutex refit_mutex;  // one refit at a time; passes do not take it
  std::uint64_t generation = 1;
  std::string integrity;
  std::unique_ptr<EngineCore> core;  // last: goes first
};

struct BudgetChange::State {
  std::shared_ptr<Engine::State> engine;  // keeps the control thread alive
  std::shared_ptr<Completion> completion;
};

struct ExecutionContext::State {
  std::shared_ptr<Engine::State> engine;
  std::unique_ptr<ContextCore> core;  // goes before the engine
};

}  // namespace forebay
