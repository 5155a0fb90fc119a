#include "input_maker.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/file.h"
#include "base/half.h"
#include "base/name_match.h"
#include "base/npy.h"
#include "shape_argument.h"

namespace forebay::tools {
namespace {

constexpr std::uint64_t kMaxInputBytes = 16ull << 30;

std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void put(std::byte* to, DType dtype, std::uint64_t hash) {
  const float real = static_cast<float>(static_cast<std::int64_t>(hash >> 40) - (1 << 23)) * 0x1p-23f;
  const std::uint64_t small = dtype == DType::u8 ? hash >> 56 : hash >> 63;
  switch (dtype) {
    case DType::f32: std::memcpy(to, &real, 4); return;
    case DType::f64: {
      const double wide = static_cast<double>(real);
      std::memcpy(to, &wide, 8);
      return;
    }
    case DType::f16: {
      const std::uint16_t bits = f32_to_f16(real);
      std::memcpy(to, &bits, 2);
      return;
    }
    case DType::bf16: {
      const std::uint16_t bits = f32_to_bf16(real);
      std::memcpy(to, &bits, 2);
      return;
    }
    case DType::f8e4m3fn:
    case DType::f8e4m3fnuz:
    case DType::f8e5m2:
    case DType::f8e5m2fnuz: {
      const auto format = static_cast<Float8>(static_cast<int>(dtype) - static_cast<int>(DType::f8e4m3fn));
      *to = static_cast<std::byte>(f32_to_f8(format, real, true));
      return;
    }
    default: std::memcpy(to, &small, static_cast<std::size_t>(dtype_bits(dtype) / 8)); return;  // little-endian integers
  }
}

// Sizes of named dimensions as files and --shapes give them.
Status learn(const TensorInfo& info, std::span<const std::int64_t> dims, std::map<std::string, std::int64_t>& sizes) {
  if (dims.size() != info.dims.size()) {
    return Status(Code::invalid_argument, fmt::format("input \"{}\" has {} dimensions, {} were given", info.name, info.dims.size(), dims.size()));
  }
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (info.dims[i] < 0 && i < info.dim_names.size() && !info.dim_names[i].empty()) sizes.emplace(info.dim_names[i], dims[i]);
  }
  return {};
}

const TensorInfo* find_info(const std::vector<TensorInfo>& infos, const std::string& name) {
  for (const TensorInfo& info : infos) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

Result<const TensorInfo*> known_input(const std::vector<TensorInfo>& infos, const std::string& name) {
  if (const TensorInfo* info = find_info(infos, name)) return info;
  std::vector<std::string> names;
  for (const TensorInfo& info : infos) names.push_back(info.name);
  Problem problem;
  problem.code = "input_unknown";
  problem.message = fmt::format("the plan has no input \"{}\"", name);
  problem.hint = did_you_mean(name, names);
  return Status(Code::invalid_argument, std::move(problem));
}

// Whether axis `i` of the state input grows: the paired output has another name, or none, for it.
bool grows(const TensorInfo& input, const TensorInfo* output, std::size_t i) {
  if (output == nullptr || output->dims.size() != input.dims.size() || output->dims[i] >= 0) return false;
  const std::string& name = input.dim_names[i];
  return name.empty() ? false : name != output->dim_names[i];
}

}  // namespace

void fill_from_seed(HostTensor& tensor, std::uint64_t seed, const std::string& name) {
  std::uint64_t base = mix(seed);
  for (const char c : name) base = mix(base ^ static_cast<unsigned char>(c));
  const int bits = dtype_bits(tensor.dtype());
  if (bits < 8) {
    for (std::uint64_t i = 0; i < tensor.bytes(); ++i) tensor.data()[i] = static_cast<std::byte>(mix(base + i) & 0x11u);
    return;
  }
  const std::uint64_t size = static_cast<std::uint64_t>(bits) / 8, count = tensor.bytes() / size;
  for (std::uint64_t i = 0; i < count; ++i) put(tensor.data() + i * size, tensor.dtype(), mix(base + i));
}

Result<InputRequest> input_request(const Session& session) {
  InputRequest request;
  for (const std::string& value : session.options.list("input")) {
    FB_ASSIGN(auto parts, split_assignment(value, "input"));
    if (!request.files.insert(parts).second) return Status(Code::invalid_argument, fmt::format("--input names \"{}\" twice", parts.first));
  }
  FB_ASSIGN(request.shapes, parse_shapes(session.options.list("shapes"), "shapes"));
  request.seed = static_cast<std::uint64_t>(session.options.integer("seed"));
  return request;
}

namespace {

// What is known of the main graph's inputs or outputs.
std::vector<TensorInfo> infos_of(const plan::Plan& plan, const std::vector<plan::ValueId>& ids) {
  std::vector<TensorInfo> infos;
  for (const plan::ValueId id : ids) {
    const plan::Value& value = plan.values[id];
    TensorInfo info{value.name, value.dtype, {}, {}};
    for (const plan::Dim& dim : value.dims) {
      info.dims.push_back(dim.size);
      info.dim_names.push_back(dim.name);
    }
    infos.push_back(std::move(info));
  }
  return infos;
}

Result<std::vector<NamedTensor>> resolve(const plan::Plan& plan, const InputRequest& request, bool fill) {
  const std::vector<TensorInfo> infos = infos_of(plan, plan.graphs[0].inputs), outputs = infos_of(plan, plan.graphs[0].outputs);
  std::map<std::string, std::int64_t> sizes;
  std::map<std::string, HostTensor> loaded;
  for (const auto& [name, path] : request.files) {
    FB_ASSIGN(const TensorInfo* info, known_input(infos, name));
    FB_ASSIGN(HostTensor tensor, read_npy(posix_file_system(), path, kMaxInputBytes, info->dtype));
    FB_TRY(learn(*info, tensor.shape().dims(), sizes));
    loaded.emplace(name, std::move(tensor));
  }
  for (const auto& [name, dims] : request.shapes) {
    FB_ASSIGN(const TensorInfo* info, known_input(infos, name));
    FB_TRY(learn(*info, dims, sizes));
  }
  std::map<std::string, std::string> pair_output;
  for (const plan::StatePair& pair : plan.state_pairs) pair_output[plan.values[pair.input].name] = plan.values[pair.output].name;
  std::map<std::string, std::int64_t> usual;
  for (const plan::DimRange& range : plan.dim_ranges) usual[range.name] = range.opt;
  std::vector<NamedTensor> made;
  for (const TensorInfo& info : infos) {
    if (const auto found = loaded.find(info.name); found != loaded.end()) {
      made.push_back({info.name, std::move(found->second)});
      continue;
    }
    std::vector<std::int64_t> dims = info.dims;
    if (const auto given = request.shapes.find(info.name); given != request.shapes.end()) dims = given->second;
    const auto paired = pair_output.find(info.name);
    const TensorInfo* output = paired == pair_output.end() ? nullptr : find_info(outputs, paired->second);
    for (std::size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] >= 0) continue;
      const std::string dim_name = i < info.dim_names.size() ? info.dim_names[i] : std::string();
      const auto size = sizes.find(dim_name);
      const auto range = usual.find(dim_name);
      dims[i] = size != sizes.end() ? size->second : range != usual.end() ? range->second : grows(info, output, i) ? 0 : 1;
    }
    const auto bytes = checked_bytes(info.dtype, dims);
    if (!bytes || *bytes > kMaxInputBytes) {
      return Status(Code::invalid_argument, fmt::format("input \"{}\" would have more than {}", info.name, format_size(kMaxInputBytes)));
    }
    NamedTensor one{info.name, HostTensor(info.dtype, Shape(dims))};
    if (fill) fill_from_seed(one.tensor, request.seed, info.name);
    made.push_back(std::move(one));
  }
  return made;
}

}  // namespace

Result<std::vector<NamedTensor>> make_inputs(const Plan& plan, const InputRequest& request) { return resolve(plan.data(), request, true); }

Result<std::vector<std::pair<std::string, Shape>>> input_shapes(const plan::Plan& plan, const InputRequest& request) {
  FB_ASSIGN(const std::vector<NamedTensor> tensors, resolve(plan, request, false));
  std::vector<std::pair<std::string, Shape>> shapes;
  for (const NamedTensor& tensor : tensors) shapes.emplace_back(tensor.name, tensor.tensor.shape());
  return shapes;
}

}  // namespace forebay::tools
