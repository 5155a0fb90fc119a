// Fixtures of exported models: a graph without its weights, laws for weights and inputs, reference outputs. fixtures/fixture_format.py
// writes them and describes the format.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "models/model_runs.h"

namespace forebay::test {

struct Fixture {
  std::string model;  // path of the ONNX file, with weights.bin beside it
  double tolerance = 0;
  std::vector<Named> inputs, outputs;
  std::map<std::string, std::vector<std::int64_t>> facts;
};

// Names of all fixtures in tests/models/`set` ("fixtures", "replays"), sorted.
std::vector<std::string> fixture_names(const std::string& set);
// Writes graph and weights of the fixture set/name into the folder `into`. A test failure and an empty `model` when something is wrong.
Fixture unpack_fixture(const std::string& set, const std::string& name, const std::string& into);

}  // namespace forebay::test
