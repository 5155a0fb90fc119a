// Replays a corpus folder, the seeds of a harness and seeded mutations of both through a libFuzzer harness, as an ordinary test.
// Usage: fuzz_replay_NAME [FOLDER]... ; FOREBAY_FUZZ_RUNS sets the number of mutations (default 4000), FOREBAY_FUZZ_SEED their seed.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz_seeds.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : otherwise;
}

void run(const std::string& input) { LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size()); }

std::string mutated(const std::vector<std::string>& inputs, std::uint64_t& state) {
  std::string input = inputs[next_random(state) % inputs.size()];
  const std::uint64_t edits = 1 + next_random(state) % 4;
  for (std::uint64_t i = 0; i < edits; ++i) {
    const std::size_t at = input.empty() ? 0 : next_random(state) % input.size();
    switch (next_random(state) % 7) {
      case 0: if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << (next_random(state) % 8))); break;
      case 1: if (!input.empty()) input[at] = static_cast<char>(next_random(state)); break;
      case 2: input.insert(at, 1 + next_random(state) % 8, static_cast<char>(next_random(state))); break;
      case 3: if (!input.empty()) input.erase(at, 1 + next_random(state) % 8); break;
      case 4: input.resize(at); break;
      case 5:  // an extreme number of one to eight bytes
        for (std::size_t j = 0, count = 1 + next_random(state) % 8; j < count && at + j < input.size(); ++j) {
          input[at + j] = static_cast<char>(next_random(state) % 2 == 0 ? 0xff : j + 1 == count ? 0x7f : 0x80);
        }
        break;
      default: {  // a piece of another input
        const std::string& other = inputs[next_random(state) % inputs.size()];
        if (!other.empty()) {
          const std::size_t from = next_random(state) % other.size();
          input.insert(at, other, from, next_random(state) % 64);
        }
      }
    }
    if (input.size() > 1 << 20) input.resize(1 << 20);
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> inputs;
#ifdef FOREBAY_FUZZ_SEEDS
  inputs = forebay_fuzz_seeds();
#endif
  const std::size_t seeds = inputs.size();
  for (int i = 1; i < argc; ++i) {
    std::error_code missing;
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i], missing)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& path : files) {
      std::ifstream in(path, std::ios::binary);
      inputs.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
  }
  run("");
  for (const std::string& input : inputs) run(input);
  // Every cut of short inputs: truncation is the commonest damage.
  std::uint64_t cuts = 0;
  for (const std::string& input : inputs) {
    const std::size_t step = 1 + input.size() / 512;
    for (std::size_t size = 0; size < input.size(); size += step, ++cuts) run(input.substr(0, size));
  }
  const std::uint64_t mutations = inputs.empty() ? 0 : from_environment("FOREBAY_FUZZ_RUNS", 4000);
  std::uint64_t state = from_environment("FOREBAY_FUZZ_SEED", 1);
  for (std::uint64_t i = 0; i < mutations; ++i) run(mutated(inputs, state));
  std::printf("replayed: seeds=%zu corpus=%zu cuts=%llu mutations=%llu\n", seeds, inputs.size() - seeds,
              static_cast<unsigned long long>(cuts), static_cast<unsigned long long>(mutations));
  if (inputs.empty()) {
    std::printf("no input: neither seeds nor a corpus folder\n");
    return 1;
  }
  return 0;
}
