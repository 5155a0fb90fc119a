// Places for values whose sizes are known only as a pass goes: best fit among the gaps, blocks shared by counting. It never refuses: the
// caller compares end() with what it has. One thread at a time; allocates host memory only while it grows beyond what it held before.
#pragma once

#include <cstdint>
#include <vector>

namespace forebay {

class ActivationHeap {
 public:
  static constexpr std::uint32_t kNoBlock = 0xffffffffu;
  void reset();
  std::uint32_t take(std::uint64_t bytes);  // held once
  void share(std::uint32_t block) { ++blocks_[block].holders; }
  void give(std::uint32_t block);                                                    // free once nobody holds it
  std::uint64_t offset(std::uint32_t block) const { return blocks_[block].offset; }  // a multiple of 64
  std::uint64_t end(std::uint32_t block) const { return blocks_[block].offset + blocks_[block].bytes; }
  std::uint64_t peak() const { return peak_; }  // the largest end since reset()

 private:
  struct Block {
    std::uint64_t offset = 0, bytes = 0;
    std::uint32_t holders = 0;
  };
  std::vector<Block> blocks_;
  std::vector<std::uint32_t> by_offset_, unused_;
  std::uint64_t peak_ = 0;
};

}  // namespace forebay
