#include "ppose/onnx_file.hpp"

#include <cstdint>
#include <iterator>
#include <set>
#include <sstream>
#include <string_view>

#include "ppose/error.hpp"

namespace ppose {
namespace {

/// As in ppose/deploy/backends/operators.py, but for If.
constexpr const char* kOperators =
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization "
    "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip "
    "Col2Im Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum "
    "DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal "
    "Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool "
    "GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid "
    "HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu "
    "Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool "
    "MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression "
    "NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal "
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round ScatterElements "
    "ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign "
    "SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu "
    "Unique Unsqueeze Upsample Where Xor ";

/// A field of a protobuf message: its number, and its bytes or its value.
struct Field {
  std::uint64_t number = 0;
  bool is_bytes = false;
  std::string_view bytes;
  std::uint64_t value = 0;
};

Error damaged(const std::string& how) {
  return Error("damaged, or not an ONNX model (" + how + "); export the network again");
}

Error refused(const std::string& what) {
  return Error("refused: it has " + what + ", which ppose does not export");
}

/// Reads the fields of a protobuf message one by one.
class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field = {key >> 3, (key & 7) == 2, {}, 0};
    switch (key & 7) {
      case 0: field.value = varint(); break;
      case 1: take(8); break;
      case 2: field.bytes = take(varint()); break;
      case 5: take(4); break;
      default: throw damaged("an unknown kind of field");
    }
    return true;
  }

  bool empty() const { return rest_.empty(); }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw damaged("a truncated number");
  }

 private:
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) throw damaged("it ends early");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
};

/// Bits of a value of a type in TensorProto.DataType; 0 for others.
std::uint64_t bits_of(std::uint64_t type) {
  switch (type) {
    case 2: case 3: case 9: return 8;
    case 4: case 5: case 10: return 16;
    case 1: case 6: case 12: return 32;
    case 7: case 11: case 13: return 64;
    default: return 0;
  }
}

/// TensorProto: 1 dims, 2 data_type, 9 raw_data, 13 external_data, 14 data_location.
void check_tensor(std::string_view tensor) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 40;
  std::uint64_t type = 0, count = 1, size = 0;
  const auto multiply = [&](std::uint64_t side) {
    if (side > kMost || (side > 0 && count > kMost / side)) throw damaged("weights of a huge shape");
    count *= side;
  };
  Message message(tensor);
  for (Field field; message.next(field);) {
    if (field.number == 1 && field.is_bytes) {
      for (Message sides(field.bytes); !sides.empty();) multiply(sides.varint());
    } else if (field.number == 1) {
      multiply(field.value);
    } else if (field.number == 2) {
      type = field.value;
    } else if (field.number == 9) {
      size = field.bytes.size();
    } else if (field.number == 13 || (field.number == 14 && field.value != 0)) {
      throw refused("weights in another file");
    } else if (field.number != 8 && field.number != 12) {  // name, doc_string
      throw refused("weights that are no raw data");
    }
  }
  const std::uint64_t bits = bits_of(type);
  if (bits == 0) throw refused("weights of the type " + std::to_string(type));
  if (size != count * bits / 8) {
    throw damaged("weights of " + std::to_string(count) + " values with " + std::to_string(size) +
                  " bytes");
  }
}

/// AttributeProto: 5 t, 6 g, 10 tensors, 11 graphs, 22 sparse_tensor, 23 sparse_tensors.
void check_attribute(std::string_view attribute) {
  Message message(attribute);
  for (Field field; message.next(field);) {
    if (field.number == 5 || field.number == 10) check_tensor(field.bytes);
    if (field.number == 6 || field.number == 11) throw refused("graphs in operators");
    if (field.number == 22 || field.number == 23) throw refused("sparse weights");
  }
}

/// The text of a field of a message; empty if it has none.
std::string_view text_of(std::string_view bytes, std::uint64_t number) {
  std::string_view text;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == number) text = field.bytes;
  }
  return text;
}

using Names = std::set<std::string_view>;

/// NodeProto: 1 input, 2 output, 4 op_type, 5 attribute, 7 domain. Inputs have to be known already:
/// runtimes may follow a cycle for ever.
void check_node(std::string_view node, const std::set<std::string>& allowed, Names& known) {
  std::string kind, domain;
  Message message(node), outputs(node);
  for (Field field; message.next(field);) {
    if (field.number == 1 && !field.bytes.empty() && known.count(field.bytes) == 0) {
      throw damaged("'" + std::string(field.bytes) + "' is used before it is computed");
    }
    if (field.number == 4) kind = field.bytes;
    if (field.number == 5) check_attribute(field.bytes);
    if (field.number == 7) domain = field.bytes;
  }
  if ((!domain.empty() && domain != "ai.onnx") || allowed.count(kind) == 0) {
    throw refused("the operator '" + domain + (domain.empty() ? "" : ".") + kind + "'");
  }
  for (Field field; outputs.next(field);) {
    if (field.number == 2 && !field.bytes.empty() && !known.insert(field.bytes).second) {
      throw damaged("'" + std::string(field.bytes) + "' is computed twice");
    }
  }
}

/// GraphProto: 1 node, 5 initializer, 11 input, 15 sparse_initializer; TensorProto: 8 name;
/// ValueInfoProto: 1 name.
void check_graph(std::string_view graph) {
  std::istringstream names(kOperators);
  const std::set<std::string> allowed{std::istream_iterator<std::string>(names), {}};
  Names known;
  Message parts(graph), nodes(graph);
  for (Field field; parts.next(field);) {
    if (field.number == 5) {
      check_tensor(field.bytes);
      known.insert(text_of(field.bytes, 8));
    }
    if (field.number == 11) known.insert(text_of(field.bytes, 1));
    if (field.number == 15) throw refused("sparse weights");
  }
  for (Field field; nodes.next(field);) {
    if (field.number == 1) check_node(field.bytes, allowed, known);
  }
}

}  // namespace

/// ModelProto: 7 graph, 20 training_info, 25 functions.
void check_onnx(const std::string& model) {
  int graphs = 0;
  Message message(model);
  for (Field field; message.next(field);) {
    if (field.number == 20 || field.number == 25) throw refused("training information or functions");
    if (field.number != 7) continue;
    if (++graphs > 1) throw damaged("two graphs");
    check_graph(field.bytes);
  }
  if (graphs == 0) throw damaged("it has no graph");
}

}  // namespace ppose
