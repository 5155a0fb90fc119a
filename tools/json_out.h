// Library values as JSON. The keys are the ones that scripts may rely on (design of the command line); more may be added.
#pragma once

#include <boost/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "forebay/engine.h"
#include "forebay/refitter.h"
#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay::tools {

boost::json::object problem_json(const Problem& problem);  // members that do not apply are absent
boost::json::array problems_json(std::span<const Problem> problems);
boost::json::object error_json(const Status& status);  // {"code","message",...,"problems":[...]}
boost::json::array dims_json(std::span<const std::int64_t> dims);
// {dtype, shape, sha256}
boost::json::object tensor_json(const HostTensor& tensor);
void add_memory(boost::json::object& object, const MemoryReport& memory);
// Of the first filling of the resident part: {bytes, ms, gbps}; null when nothing was to be filled.
boost::json::value load_json(const Engine::IoInfo& io);
void add_refit_report(boost::json::object& object, const RefitReport& report);

// What happened, where, why, next: for a terminal.
std::string error_text(const Status& status, bool color);
std::string problem_line(const Problem& problem);

std::uint64_t peak_rss_bytes();  // of this process

}  // namespace forebay::tools
