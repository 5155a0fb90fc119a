// The hardware queues that serve all streams of a process on the device.
#pragma once

namespace forebay::cuda {

// Asks for as many as there are, before anything starts the driver. Where it has been started, and nobody had asked, it took 8.
void ask_for_hardware_queues();
int hardware_queues();

}  // namespace forebay::cuda
