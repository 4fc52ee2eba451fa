// The choice of experts: scores of logits, the best of each token, their weights; and the way back of gradients.
//
//   scores = softmax(logits) or sigmoid(logits);   experts = the top_k highest of scores + bias, the first among equals
//   weights[t, k] = scale * scores[t, experts[t, k]] / (sum over the chosen ones, if normed, else 1)
//
// Of several groups of neighbouring experts only those in the top_groups best are chosen; a group is worth the sum of its
// two best. NaN comes first, as in torch.topk, and experts still differ.
// Numbers: f32, an expert after the other.
// Bound:   the exponentials; plain PyTorch by the number of its operations.
// Equals:  tests/ops/test_route.py, plain PyTorch.

#include "operands.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace foveate {
namespace {

constexpr float kLeastSum = 1e-9F;  // of chosen scores, by which weights are divided
constexpr float kLeftOut = -std::numeric_limits<float>::infinity();

// How scores become weights.
struct Weighing {
  bool sigmoid, normed;
  float scale;
};

// How experts are chosen.
struct Choosing {
  int64_t num_experts, top_k, groups, top_groups;
  const float* bias;  // or null
};

void softmax(const float* logits, int64_t count, float* scores) {
  const float highest = *std::max_element(logits, logits + count);
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += scores[i] = std::exp(logits[i] - highest);
  }
  for (int64_t i = 0; i < count; ++i) {
    scores[i] /= sum;
  }
}

void score(const float* logits, int64_t count, bool sigmoid, float* scores) {
  if (!sigmoid) {
    return softmax(logits, count, scores);
  }
  std::transform(logits, logits + count, scores, [](float logit) { return 1 / (1 + std::exp(-logit)); });
}

// Whether a number comes before another one; NaN comes first, as in torch.topk.
bool is_higher(float number, float other) {
  return number > other || (std::isnan(number) && !std::isnan(other));
}

// The places of the highest numbers, the highest first, the first among equals.
void put_best(const float* values, int64_t count, int64_t wanted, std::vector<char>& taken, int64_t* best) {
  std::fill_n(taken.begin(), count, 0);
  for (int64_t k = 0; k < wanted; ++k) {
    int64_t place = -1;
    for (int64_t i = 0; i < count; ++i) {
      if (!taken[i] && (place < 0 || is_higher(values[i], values[place]))) {
        place = i;
      }
    }
    taken[place] = 1;
    best[k] = place;
  }
}

float worth(const float* group, int64_t size) {
  float best = kLeftOut, second = kLeftOut;
  for (int64_t i = 0; i < size; ++i) {
    if (is_higher(group[i], best)) {
      second = best;
      best = group[i];
    } else if (is_higher(group[i], second)) {
      second = group[i];
    }
  }
  return size > 1 ? best + second : best;
}

// Of a thread, for one token after the other.
struct Scratch {
  std::vector<float> wanted, worths;
  std::vector<char> taken;
  std::vector<int64_t> best_groups;

  explicit Scratch(const Choosing& how)
      : wanted(how.num_experts), worths(how.groups), taken(how.num_experts), best_groups(how.top_groups) {}
};

void leave_out_groups(const Choosing& how, Scratch& own) {
  const int64_t size = how.num_experts / how.groups;
  for (int64_t group = 0; group < how.groups; ++group) {
    own.worths[group] = worth(own.wanted.data() + group * size, size);
  }
  put_best(own.worths.data(), how.groups, how.top_groups, own.taken, own.best_groups.data());
  for (int64_t group = 0; group < how.groups; ++group) {
    if (!own.taken[group]) {
      std::fill_n(own.wanted.begin() + group * size, size, kLeftOut);
    }
  }
}

void choose(const Choosing& how, const float* scores, Scratch& own, int64_t* experts) {
  for (int64_t e = 0; e < how.num_experts; ++e) {
    own.wanted[e] = how.bias == nullptr ? scores[e] : scores[e] + how.bias[e];
  }
  if (how.groups > 1) {
    leave_out_groups(how, own);
  }
  put_best(own.wanted.data(), how.num_experts, how.top_k, own.taken, experts);
}

float sum_of(const float* scores, const int64_t* experts, int64_t top_k) {
  float sum = 0;
  for (int64_t k = 0; k < top_k; ++k) {
    sum += scores[experts[k]];
  }
  return sum;
}

void weigh(const Weighing& how, const float* scores, const int64_t* experts, int64_t top_k, float* weights) {
  const float divisor = how.normed ? std::max(sum_of(scores, experts, top_k), kLeastSum) : 1;
  for (int64_t k = 0; k < top_k; ++k) {
    weights[k] = scores[experts[k]] / divisor * how.scale;
  }
}

// Adds to the gradient of the scores what their weights had.
void weigh_back(const Weighing& how, const float* grad_weights, const float* scores, const int64_t* experts,
                int64_t top_k, float* grad_scores) {
  const float sum = sum_of(scores, experts, top_k);
  const bool divides = how.normed && !(sum < kLeastSum);
  const float divisor = how.normed ? std::max(sum, kLeastSum) : 1;
  float shared = 0;
  for (int64_t k = 0; divides && k < top_k; ++k) {
    shared += grad_weights[k] * scores[experts[k]] / divisor;
  }
  for (int64_t k = 0; k < top_k; ++k) {
    grad_scores[experts[k]] += how.scale * (grad_weights[k] - shared) / divisor;
  }
}

// The gradient of the scores to that of the logits, in place.
void score_back(const float* scores, int64_t count, bool sigmoid, float* grad) {
  float shared = 0;
  for (int64_t i = 0; !sigmoid && i < count; ++i) {
    shared += grad[i] * scores[i];
  }
  for (int64_t i = 0; i < count; ++i) {
    grad[i] = scores[i] * (sigmoid ? grad[i] * (1 - scores[i]) : grad[i] - shared);
  }
}

void check_floats(const Tensor& x, const char* name) {
  check_cpu(x, name);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && x.dim() == 2 && x.is_contiguous(), name,
                  " must be contiguous float32 [tokens, numbers], got ", tensor_text(x));
}

Choosing checked_choosing(const Tensor& logits, const std::optional<Tensor>& bias, int64_t top_k, int64_t groups,
                          int64_t top_groups) {
  check_floats(logits, "logits");
  const int64_t num_experts = logits.size(1);
  STD_TORCH_CHECK(0 < groups && groups <= num_experts && num_experts % groups == 0 && 0 < top_groups &&
                      top_groups <= groups,
                  "groups must divide ", num_experts, " experts and be no fewer than top_groups, got ", groups,
                  " and ", top_groups);
  const int64_t most = num_experts / groups * top_groups;
  STD_TORCH_CHECK(0 < top_k && top_k <= most, "top_k must be from 1 to ", most, ", got ", top_k);
  if (!bias.has_value()) {
    return {num_experts, top_k, groups, top_groups, nullptr};
  }
  STD_TORCH_CHECK(bias->is_cpu() && bias->scalar_type() == ScalarType::Float && bias->dim() == 1 &&
                      bias->size(0) == num_experts && bias->is_contiguous(),
                  "bias must be contiguous float32 [", num_experts, "] on the CPU, got ", tensor_text(*bias));
  return {num_experts, top_k, groups, top_groups, bias->const_data_ptr<float>()};
}

std::tuple<Tensor, Tensor, Tensor> route(const Tensor& logits, const std::optional<Tensor>& bias, int64_t top_k,
                                         bool sigmoid, bool normed, double scale, int64_t groups,
                                         int64_t top_groups) {
  const Choosing choosing = checked_choosing(logits, bias, top_k, groups, top_groups);
  const Weighing weighing = {sigmoid, normed, static_cast<float>(scale)};
  const int64_t num_tokens = logits.size(0), num_experts = logits.size(1);
  Tensor experts = torch::stable::new_empty(logits, {num_tokens, top_k}, ScalarType::Long);
  Tensor weights = torch::stable::new_empty(logits, {num_tokens, top_k});
  Tensor scores = torch::stable::new_empty(logits, {num_tokens, num_experts});
  const float* from = logits.const_data_ptr<float>();
  int64_t* chosen = experts.mutable_data_ptr<int64_t>();
  float *weighed = weights.mutable_data_ptr<float>(), *scored = scores.mutable_data_ptr<float>();
  const int64_t grain = grain_of(num_experts * (top_k + 16));
  torch::stable::parallel_for(0, num_tokens, grain, [&](int64_t begin, int64_t end) {
    Scratch own(choosing);
    for (int64_t t = begin; t < end; ++t) {
      float* line = scored + t * num_experts;
      score(from + t * num_experts, num_experts, sigmoid, line);
      choose(choosing, line, own, chosen + t * top_k);
      weigh(weighing, line, chosen + t * top_k, top_k, weighed + t * top_k);
    }
  });
  return {weights, scores, experts};
}

void check_experts(const Tensor& experts, int64_t num_tokens, int64_t num_experts) {
  FOVEATE_CHECK_CPU(experts);
  STD_TORCH_CHECK(experts.scalar_type() == ScalarType::Long && experts.dim() == 2 && experts.is_contiguous() &&
                      experts.size(0) == num_tokens,
                  "experts must be contiguous int64 [", num_tokens, ", choices], got ", tensor_text(experts));
  const int64_t* data = experts.const_data_ptr<int64_t>();
  const int64_t count = experts.numel();
  const int64_t* bad = std::find_if(data, data + count, [&](int64_t e) { return e < 0 || e >= num_experts; });
  STD_TORCH_CHECK(bad == data + count, "experts must lie in 0 to ", num_experts - 1, ", got ", *bad);
}

Tensor route_backward(const Tensor& grad_weights, const std::optional<Tensor>& grad_scores, const Tensor& experts,
                      const Tensor& scores, bool sigmoid, bool normed, double scale) {
  check_floats(scores, "scores");
  check_floats(grad_weights, "grad_weights");
  check_experts(experts, scores.size(0), scores.size(1));
  FOVEATE_CHECK_SAME_SHAPE(grad_weights, experts);
  if (grad_scores.has_value()) {
    check_floats(*grad_scores, "grad_scores");
    check_same_shape(*grad_scores, "grad_scores", scores, "scores");
  }
  const Weighing weighing = {sigmoid, normed, static_cast<float>(scale)};
  const int64_t num_experts = scores.size(1), top_k = experts.size(1);
  Tensor grad = torch::stable::new_empty(scores, {scores.size(0), num_experts});
  float* to = grad.mutable_data_ptr<float>();
  const float *scored = scores.const_data_ptr<float>(), *weighed = grad_weights.const_data_ptr<float>();
  const float* added = grad_scores.has_value() ? grad_scores->const_data_ptr<float>() : nullptr;
  const int64_t* chosen = experts.const_data_ptr<int64_t>();
  torch::stable::parallel_for(0, scores.size(0), grain_of(4 * num_experts), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t at = t * num_experts;
      added == nullptr ? std::fill_n(to + at, num_experts, 0.0F) : std::copy_n(added + at, num_experts, to + at);
      weigh_back(weighing, weighed + t * top_k, scored + at, chosen + t * top_k, top_k, to + at);
      score_back(scored + at, num_experts, sigmoid, to + at);
    }
  });
  return grad;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("moe_route", TORCH_BOX(&foveate::route));
  m.impl("moe_route_backward", TORCH_BOX(&foveate::route_backward));
}
