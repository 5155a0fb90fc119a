#include "api/weight_catalog.h"
#include "base/check.h"
#include "forebay/refitter.h"
#include "runtime/thread_pool.h"

namespace forebay {

struct Refitter::State {
  Plan plan;
  Options options;
  ThreadPool pool;
  Logger& logger;
  State(Plan p, Options o) : plan(std::move(p)), options(std::move(o)), pool(api::compute_threads(options.threads)), logger(options.logger ? *options.logger : null_logger()) {}
};

Refitter::Refitter(Plan plan, Options options) : state_(std::make_unique<State>(std::move(plan), std::move(options))) {}
Refitter::~Refitter() = default;
Refitter::Refitter(Refitter&&) noexcept = default;
Refitter& Refitter::operator=(Refitter&&) noexcept = default;

Status Refitter::check(const WeightSources& sources, RefitReport* report) {
  FB_ASSIGN(auto opened, api::open_sources(sources, state_->logger));
  opened.options.progress = state_->options.progress;
  refit::Report found;
  Status status = refit::check(state_->plan.data(), *opened.catalog, opened.options, true, &found);
  api::copy_report(found, report);
  return status;
}

Result<PackReport> Refitter::pack(const WeightSources& sources, const std::string& folder, const std::string& codec) {
  refit::PackOptions options;
  if (codec == "raw") {
    options.codec = refit::PackOptions::Choice::raw;
  } else if (codec == "zstd") {
    options.codec = refit::PackOptions::Choice::zstd;
  } else if (codec == "huffman") {
    return Status(Code::unsupported, "the huffman codec has its id in the format but is not in this version; use auto, raw or zstd");
  } else if (codec != "auto" && !codec.empty()) {
    return Status(Code::invalid_argument, "unknown codec '" + codec + "'; use auto, raw or zstd");
  }
  FB_ASSIGN(auto opened, api::open_sources(sources, state_->logger));
  options.refit = std::move(opened.options);
  options.refit.progress = state_->options.progress;
  FB_ASSIGN(refit::PackResult packed, refit::pack(posix_file_system(), state_->plan.share(), opened.catalog, folder, options, state_->pool, state_->logger));
  PackReport report;
  report.raw_bytes = packed.raw_bytes;
  report.stored_bytes = packed.stored_bytes;
  report.codecs = packed.codecs;
  api::copy_report(packed.report, &report.refit);
  report.refit.bytes_read = packed.read_bytes;
  report.refit.bytes_written = packed.stored_bytes;
  return report;
}

Result<RefitReport> Refitter::embed(const WeightSources& sources, const std::string& plan_path) {
  FB_ASSIGN(auto opened, api::open_sources(sources, state_->logger));
  opened.options.progress = state_->options.progress;
  FB_ASSIGN(refit::EmbedResult embedded,
            refit::embed(posix_file_system(), state_->plan.share(), opened.catalog, plan_path, opened.options, state_->pool, state_->logger));
  RefitReport report;
  api::copy_report(embedded.report, &report);
  report.bytes_read = embedded.read_bytes;
  report.bytes_written = embedded.plan_bytes;
  return report;
}

}  // namespace forebay
