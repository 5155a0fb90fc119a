#include "onnx/wire_scan.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/check.h"
#include "base/printable.h"
#include "onnx/wire_reader.h"

namespace forebay::onnx {
namespace {

enum class Message : std::uint8_t { model, graph, node, attribute, function, tensor, sparse };
enum class Action : std::uint8_t {
  drop,     // not ours
  copy,     // scalars and lists of scalars
  name,     // a string, UTF-8, at most Limits::max_name_bytes
  small,    // a leaf message, at most kSmallBytes
  marker,   // only that it is there matters: an empty one is handed on
  descend,  // a message that is scanned too
  payload,  // replaced by its extent
};
struct Rule {
  Action action = Action::drop;
  Message message = Message::model;  // for descend
};

constexpr std::uint64_t kSmallBytes = 1 << 20;
constexpr std::size_t kPieceBytes = 256 * 1024;
constexpr std::uint32_t kModelGraphTag = 7u << 3 | 2u;

constexpr Rule rule_of(Message message, std::uint32_t field) {
  switch (message) {
    case Message::model:
      switch (field) {
        case 1: return {Action::copy};
        case 2: case 3: return {Action::name};
        case 7: return {Action::descend, Message::graph};
        case 8: return {Action::small};
        case 25: return {Action::descend, Message::function};
        default: return {};
      }
    case Message::graph:
      switch (field) {
        case 1: return {Action::descend, Message::node};
        case 2: return {Action::name};
        case 5: return {Action::descend, Message::tensor};
        case 11: case 12: case 13: return {Action::small};
        case 15: return {Action::descend, Message::sparse};
        default: return {};
      }
    case Message::node:
      switch (field) {
        case 1: case 2: case 3: case 4: case 7: case 8: return {Action::name};
        case 5: return {Action::descend, Message::attribute};
        default: return {};
      }
    case Message::attribute:
      switch (field) {
        case 1: case 21: return {Action::name};
        case 2: case 3: case 4: case 7: case 8: case 9: case 20: return {Action::copy};
        case 5: return {Action::descend, Message::tensor};
        case 6: return {Action::descend, Message::graph};
        case 10: case 11: case 14: case 15: case 22: case 23: return {Action::marker};
        default: return {};
      }
    case Message::function:
      switch (field) {
        case 1: case 4: case 5: case 6: case 10: case 13: return {Action::name};
        case 7: return {Action::descend, Message::node};
        case 9: return {Action::small};
        case 11: return {Action::descend, Message::attribute};
        default: return {};
      }
    case Message::tensor:
      switch (field) {
        case 1: case 2: case 14: return {Action::copy};
        case 3: return {Action::marker};
        case 4: case 5: case 6: case 7: case 9: case 10: case 11: return {Action::payload};
        case 8: return {Action::name};
        case 13: return {Action::small};
        default: return {};
      }
    case Message::sparse: return field == 1 ? Rule{Action::descend, Message::tensor} : Rule{};
  }
  return {};
}

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>(value | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

// Where one payload field of a tensor was met.
struct Seen {
  std::uint64_t count = 0;       // occurrences of the field
  bool packed = false;           // of the last one: length-delimited
  std::uint64_t offset = 0, bytes = 0;  // inside of the last one
  std::uint64_t begin = 0, end = 0;     // from the first tag to the end of the last value
};

class Scanner {
 public:
  Scanner(File& file, std::uint64_t file_bytes, const Limits& limits, const PieceSink& sink)
      : file_(file), limits_(limits), sink_(sink), reader_(file, file_bytes), file_bytes_(file_bytes) {}

  Status run(Message root) {
    FB_TRY(scan(root, file_bytes_, 0));
    return flush();
  }

 private:
  struct Field {
    std::uint32_t number = 0, wire = 0;
    std::uint64_t tag_offset = 0;
    std::uint64_t length = 0;  // of length-delimited fields
  };

  Status invalid(std::string why, Code code = Code::invalid_model) const {
    return Status(code, std::move(why)).with_file(file_.name()).with_offset(reader_.position());
  }
  Status over_limit(std::string why) const {
    return invalid(std::move(why), Code::resource_exhausted).with_hint("such a model is not read; raise onnx::Limits if it is meant");
  }

  Result<Field> next_field(std::uint64_t end) {
    Field field;
    field.tag_offset = reader_.position();
    FB_ASSIGN(const std::uint64_t tag, reader_.varint(end));
    field.number = static_cast<std::uint32_t>(tag >> 3);
    field.wire = static_cast<std::uint32_t>(tag & 7);
    if (tag > UINT32_MAX || field.number == 0 || field.wire == 3 || field.wire == 4 || field.wire > 5) {
      return invalid("these bytes are no field of an ONNX file").with_hint("the file is damaged or not an ONNX model");
    }
    if (field.wire == 2) {
      FB_ASSIGN(field.length, reader_.varint(end));
      if (field.length > end - reader_.position()) return reader_.past_end(end);
    }
    return field;
  }

  // `depth`: graphs around this message.
  Status scan(Message message, std::uint64_t end, int depth) {
    std::array<Seen, 12> payloads{};
    const std::uint64_t begin = reader_.position();
    while (reader_.position() < end) {
      FB_ASSIGN(const Field field, next_field(end));
      const Rule rule = rule_of(message, field.number);
      FB_TRY(rule.action == Action::payload ? note_payload(field, end, payloads[field.number]) : take(message, rule, field, end, depth));
      // Only where no other message than the main graph is open.
      const bool between = message == Message::model || (message == Message::graph && depth == 1 && main_graph_at_ != std::string::npos);
      if (between && out_.size() > kPieceBytes) FB_TRY(flush());
    }
    if (message == Message::tensor) put_payloads(begin, payloads);
    return {};
  }

  Status take(Message message, const Rule& rule, const Field& field, std::uint64_t end, int depth) {
    const std::uint32_t tag = field.number << 3 | field.wire;
    const bool delimited = field.wire == 2;
    if (rule.action == Action::drop || (rule.action != Action::copy && !delimited)) return skip_value(field, end);
    // An entry costs more memory than its bytes in the file may tell.
    if (delimited && ++entries_ > 8 * (limits_.max_nodes + limits_.max_tensors))
      return over_limit("more names and attributes than any model needs");
    FB_TRY(room_for(rule.action == Action::marker || rule.action == Action::descend ? 16 : field.length + 16));
    switch (rule.action) {
      case Action::copy:
        put_varint(out_, tag);
        return copy_value(field, end);
      case Action::name:
        return copy_name(tag, field, end);
      case Action::small:
        if (field.length > kSmallBytes)
          return over_limit("a description of " + std::to_string(field.length) + " bytes, far more than any model needs");
        put_varint(out_, tag);
        return copy_value(field, end);
      case Action::marker:
        put_varint(out_, tag);
        out_ += '\0';
        return skip_value(field, end);
      case Action::descend: return descend(message, rule.message, tag, reader_.position() + field.length, depth);
      default: return skip_value(field, end);
    }
  }

  Status descend(Message parent, Message child, std::uint32_t tag, std::uint64_t child_end, int depth) {
    if (child == Message::graph) {
      ++depth;
      if (depth > limits_.max_depth + 1) return over_limit("graphs are nested more than " + std::to_string(limits_.max_depth) + " deep");
    }
    if (child == Message::node && ++nodes_ > limits_.max_nodes)
      return over_limit("more than " + std::to_string(limits_.max_nodes) + " nodes");
    if (child == Message::tensor && ++tensors_ > limits_.max_tensors)
      return over_limit("more than " + std::to_string(limits_.max_tensors) + " tensors");
    const bool main_graph = parent == Message::model && child == Message::graph;
    const std::size_t place = open(tag);
    if (main_graph) main_graph_at_ = place;
    FB_TRY(scan(child, child_end, depth));
    close(main_graph ? main_graph_at_ : place);
    if (main_graph) main_graph_at_ = std::string::npos;
    return {};
  }

  Status skip_value(const Field& field, std::uint64_t end) {
    if (field.wire == 0) return reader_.varint(end).status();
    const std::uint64_t bytes = field.wire == 2 ? field.length : field.wire == 1 ? 8 : 4;
    if (bytes > end - reader_.position()) return reader_.past_end(end);
    reader_.skip_to(reader_.position() + bytes);
    return {};
  }

  Status copy_value(const Field& field, std::uint64_t end) {
    if (field.wire == 0) {
      FB_ASSIGN(const std::uint64_t value, reader_.varint(end));
      put_varint(out_, value);
      return {};
    }
    if (field.wire == 2) put_varint(out_, field.length);
    const std::uint64_t bytes = field.wire == 2 ? field.length : field.wire == 1 ? 8 : 4;
    const std::size_t at = out_.size();
    out_.resize(at + bytes);
    return reader_.bytes(std::span(out_).subspan(at), end);
  }

  Status copy_name(std::uint32_t tag, const Field& field, std::uint64_t end) {
    if (field.length > limits_.max_name_bytes) {
      return over_limit("a name of " + std::to_string(field.length) + " bytes, and at most " + std::to_string(limits_.max_name_bytes) +
                        " are read");
    }
    put_varint(out_, tag);
    FB_TRY(copy_value(field, end));
    const std::string_view name = std::string_view(out_).substr(out_.size() - field.length);
    if (!is_utf8(name)) return invalid("the name \"" + printable(name) + "\" is not UTF-8");
    return {};
  }

  Status note_payload(const Field& field, std::uint64_t end, Seen& seen) {
    const std::uint64_t inside = reader_.position();
    FB_TRY(skip_value(field, end));
    if (seen.count++ == 0) seen.begin = field.tag_offset;
    seen.packed = field.wire == 2;
    seen.offset = inside;
    seen.bytes = reader_.position() - inside;
    seen.end = reader_.position();
    return {};
  }

  // The extents of a tensor, as the fields of onnx_wire.proto that no file may set (they are dropped above).
  void put_payloads(std::uint64_t message_begin, const std::array<Seen, 12>& payloads) {
    put_varint(out_, 60001u << 3);
    put_varint(out_, message_begin);
    for (std::uint32_t number = 0; number < payloads.size(); ++number) {
      const Seen& seen = payloads[number];
      if (seen.count == 0) continue;
      // Of a field that is not repeated (raw_data) the last occurrence counts; a repeated one is the sum of its occurrences.
      const bool run = number != 9 && number != 6 && (seen.count > 1 || !seen.packed);
      std::string inner;
      put_varint(inner, 1u << 3);
      put_varint(inner, number);
      put_varint(inner, 2u << 3);
      put_varint(inner, run ? seen.begin : seen.offset);
      put_varint(inner, 3u << 3);
      put_varint(inner, run ? seen.end - seen.begin : seen.bytes);
      put_varint(inner, 4u << 3);
      put_varint(inner, run ? 1 : 0);
      put_varint(out_, 60000u << 3 | 2u);
      put_varint(out_, inner.size());
      out_ += inner;
    }
  }

  // Lengths are known only at the end of a message: five bytes are kept for each (a varint may have leading zero groups).
  std::size_t open(std::uint32_t tag) {
    put_varint(out_, tag);
    out_.append(5, '\0');
    return out_.size();
  }
  void close(std::size_t place) {
    std::uint64_t length = out_.size() - place;
    for (std::size_t i = 5; i > 0; --i, length >>= 7) {
      out_[place - i] = static_cast<char>((length & 0x7f) | (i > 1 ? 0x80 : 0));
    }
  }

  Status room_for(std::uint64_t bytes) {
    if (bytes > limits_.max_model_bytes || handed_on_ + out_.size() > limits_.max_model_bytes - bytes) {
      return over_limit("the graph without its weights has more than " + std::to_string(limits_.max_model_bytes) + " bytes");
    }
    return {};
  }

  Status flush() {
    if (main_graph_at_ != std::string::npos) close(main_graph_at_);
    handed_on_ += out_.size();
    FB_TRY(sink_(out_));
    out_.clear();
    if (main_graph_at_ != std::string::npos) main_graph_at_ = open(kModelGraphTag);
    return {};
  }

  File& file_;
  const Limits& limits_;
  const PieceSink& sink_;
  WireReader reader_;
  std::uint64_t file_bytes_;
  std::string out_;
  std::uint64_t handed_on_ = 0, nodes_ = 0, tensors_ = 0, entries_ = 0;
  std::size_t main_graph_at_ = std::string::npos;  // inside out_, while the main graph is open
};

Status scan_wire(File& file, const Limits& limits, const PieceSink& sink, Message root) {
  FB_ASSIGN(const FileIdentity identity, file.identity());
  return Scanner(file, identity.bytes, limits, sink).run(root);
}

}  // namespace

Status scan_model_wire(File& file, const Limits& limits, const PieceSink& sink) { return scan_wire(file, limits, sink, Message::model); }
Status scan_tensor_wire(File& file, const Limits& limits, const PieceSink& sink) { return scan_wire(file, limits, sink, Message::tensor); }

}  // namespace forebay::onnx
