// The CPU's device behind another face, for tests that need a device to say something else of itself.
#pragma once

#include <memory>
#include <string>

#include "runtime/cpu/cpu_device.h"

namespace forebay::builder::test {

class WrappedDevice : public Device {
 public:
  const DeviceInfo& info() const override { return info_; }
  Result<std::uint64_t> free_bytes() override { return cpu_->free_bytes(); }
  Result<std::unique_ptr<Arena>> reserve_arena(std::uint64_t bytes) override { return cpu_->reserve_arena(bytes); }
  Result<std::unique_ptr<Arena>> wrap_arena(std::span<std::byte> memory) override { return cpu_->wrap_arena(memory); }
  Result<std::unique_ptr<Queue>> create_queue(const std::string& name, std::uint32_t capacity) override {
    return cpu_->create_queue(name, capacity);
  }
  Result<std::unique_ptr<Timeline>> create_timeline() override { return cpu_->create_timeline(); }
  Status register_host(std::span<std::byte> memory) override { return cpu_->register_host(memory); }
  void unregister_host(std::span<std::byte> memory) override { cpu_->unregister_host(memory); }

 private:
  const std::unique_ptr<Device> cpu_ = create_cpu_device().value();

 protected:
  DeviceInfo info_ = cpu_->info();
};

}  // namespace forebay::builder::test
