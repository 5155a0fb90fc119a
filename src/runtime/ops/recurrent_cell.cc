#include "runtime/ops/recurrent_cell.h"

#include <algorithm>
#include <cctype>
#include <cmath>

namespace forebay::ops {
namespace {

struct Named {
  std::string_view name;
  CellActivation::Kind kind;
  FloatUnary loop;
  bool has_alpha, has_beta;
  double alpha, beta;
};
constexpr Named kNamed[] = {
    {"sigmoid", CellActivation::Kind::loop, FloatUnary::sigmoid, false, false, 0, 0},
    {"tanh", CellActivation::Kind::loop, FloatUnary::tanh, false, false, 0, 0},
    {"relu", CellActivation::Kind::loop, FloatUnary::relu, false, false, 0, 0},
    {"affine", CellActivation::Kind::affine, FloatUnary::relu, true, true, 1, 0},
    {"leakyrelu", CellActivation::Kind::loop, FloatUnary::leaky_relu, true, false, 0.01, 0},
    {"thresholdedrelu", CellActivation::Kind::loop, FloatUnary::thresholded_relu, true, false, 1, 0},
    {"scaledtanh", CellActivation::Kind::scaled_tanh, FloatUnary::tanh, true, true, 1, 1},
    {"hardsigmoid", CellActivation::Kind::loop, FloatUnary::hard_sigmoid, true, true, 0.2, 0.5},
    {"elu", CellActivation::Kind::loop, FloatUnary::elu, true, false, 1, 0},
    {"softsign", CellActivation::Kind::loop, FloatUnary::softsign, false, false, 0, 0},
    {"softplus", CellActivation::Kind::loop, FloatUnary::softplus, false, false, 0, 0},
};

const Named* find(std::string_view name) {
  std::string lower(name);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const Named& named : kNamed) {
    if (named.name == lower) return &named;
  }
  return nullptr;
}

template <typename T>
void apply(const CellParameters& cell, const CellActivation& activation, T* values) {
  const std::int64_t n = cell.hidden;
  if (cell.clip > 0) {
    const T most = static_cast<T>(cell.clip);
    for (std::int64_t i = 0; i < n; ++i) values[i] = std::clamp(values[i], -most, most);
  }
  const T alpha = static_cast<T>(activation.alpha), beta = static_cast<T>(activation.beta);
  if (activation.kind == CellActivation::Kind::affine) {
    for (std::int64_t i = 0; i < n; ++i) values[i] = alpha * values[i] + beta;
    return;
  }
  if (activation.kind == CellActivation::Kind::scaled_tanh) {
    for (std::int64_t i = 0; i < n; ++i) values[i] *= beta;
  }
  vector_loops().unary(activation.loop, sizeof(T) == 8)(values, nullptr, values, n, {activation.alpha, activation.beta, 0});
  if (activation.kind == CellActivation::Kind::scaled_tanh) {
    for (std::int64_t i = 0; i < n; ++i) values[i] *= alpha;
  }
}

}  // namespace

Result<std::vector<CellActivation>> cell_activations(const NodeView& node, CellKind kind, int directions) {
  static constexpr std::string_view kLstm[] = {"Sigmoid", "Tanh", "Tanh"}, kGru[] = {"Sigmoid", "Tanh"}, kRnn[] = {"Tanh"};
  const auto usual = kind == CellKind::lstm ? std::span<const std::string_view>(kLstm)
                     : kind == CellKind::gru ? std::span<const std::string_view>(kGru)
                                             : std::span<const std::string_view>(kRnn);
  const auto given = node.texts("activations");
  const std::size_t needed = usual.size() * static_cast<std::size_t>(directions);
  if (!given.empty() && given.size() != needed) {
    return node.invalid("activations has " + std::to_string(given.size()) + " entries, " + std::to_string(needed) + " are needed");
  }
  const auto alphas = node.reals("activation_alpha"), betas = node.reals("activation_beta");
  std::size_t next_alpha = 0, next_beta = 0;
  std::vector<CellActivation> made;
  for (std::size_t i = 0; i < needed; ++i) {
    const std::string_view name = given.empty() ? usual[i % usual.size()] : std::string_view(given[i]);
    const Named* named = find(name);
    if (named == nullptr) return node.unsupported("activation '" + std::string(name) + "'");
    CellActivation activation{named->kind, named->loop, named->alpha, named->beta};
    if (named->has_alpha && next_alpha < alphas.size()) activation.alpha = static_cast<double>(alphas[next_alpha++]);
    if (named->has_beta && next_beta < betas.size()) activation.beta = static_cast<double>(betas[next_beta++]);
    made.push_back(activation);
  }
  return made;
}

template <typename T>
void rnn_step(const CellParameters& cell, const CellRow<T>& row) {
  apply(cell, cell.activations[0], row.gates);
  std::copy(row.gates, row.gates + cell.hidden, row.h);
}

template <typename T>
void lstm_step(const CellParameters& cell, const CellRow<T>& row) {
  const std::int64_t n = cell.hidden;
  T *i = row.gates, *o = i + n, *f = o + n, *c = f + n;
  if (row.peepholes != nullptr) {
    for (std::int64_t j = 0; j < n; ++j) i[j] += row.peepholes[j] * row.c[j];
    for (std::int64_t j = 0; j < n; ++j) f[j] += row.peepholes[2 * n + j] * row.c[j];
  }
  apply(cell, cell.activations[0], i);
  if (cell.input_forget) {
    for (std::int64_t j = 0; j < n; ++j) f[j] = T(1) - i[j];
  } else {
    apply(cell, cell.activations[0], f);
  }
  apply(cell, cell.activations[1], c);
  for (std::int64_t j = 0; j < n; ++j) row.c[j] = f[j] * row.c[j] + i[j] * c[j];
  if (row.peepholes != nullptr) {
    for (std::int64_t j = 0; j < n; ++j) o[j] += row.peepholes[n + j] * row.c[j];
  }
  apply(cell, cell.activations[0], o);
  std::copy(row.c, row.c + n, row.spare);
  CellParameters unclipped = cell;
  unclipped.clip = 0;  // the cell state itself is not clipped
  apply(unclipped, cell.activations[2], row.spare);
  for (std::int64_t j = 0; j < n; ++j) row.h[j] = o[j] * row.spare[j];
}

template <typename T>
void gru_gates(const CellParameters& cell, const CellRow<T>& row) {
  const std::int64_t n = cell.hidden;
  T *z = row.gates, *r = z + n;
  apply(cell, cell.activations[0], z);
  apply(cell, cell.activations[0], r);
  for (std::int64_t j = 0; j < n; ++j) row.spare[j] = r[j] * (cell.linear_before_reset ? row.recurrent[j] : row.h[j]);
}

template <typename T>
void gru_step(const CellParameters& cell, const CellRow<T>& row) {
  const std::int64_t n = cell.hidden;
  T *z = row.gates, *h = z + 2 * n;
  apply(cell, cell.activations[1], h);
  for (std::int64_t j = 0; j < n; ++j) row.h[j] = (T(1) - z[j]) * h[j] + z[j] * row.h[j];
}

template void rnn_step<float>(const CellParameters&, const CellRow<float>&);
template void rnn_step<double>(const CellParameters&, const CellRow<double>&);
template void lstm_step<float>(const CellParameters&, const CellRow<float>&);
template void lstm_step<double>(const CellParameters&, const CellRow<double>&);
template void gru_gates<float>(const CellParameters&, const CellRow<float>&);
template void gru_gates<double>(const CellParameters&, const CellRow<double>&);
template void gru_step<float>(const CellParameters&, const CellRow<float>&);
template void gru_step<double>(const CellParameters&, const CellRow<double>&);

}  // namespace forebay::ops
