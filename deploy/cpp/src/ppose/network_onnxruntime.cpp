#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdlib>

#include "ppose/error.hpp"
#include "ppose/network.hpp"

namespace ppose {
namespace {

Ort::SessionOptions options(int threads) {
  Ort::SessionOptions made;
  if (threads > 0) made.SetIntraOpNumThreads(threads);
  made.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
  return made;
}

// Without this variable ONNX Runtime reports about its users. A value that they have set is kept.
Ort::Env environment() {
#ifdef _WIN32
  if (!std::getenv("ORT_DISABLE_TELEMETRY")) _putenv("ORT_DISABLE_TELEMETRY=1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
  return Ort::Env(ORT_LOGGING_LEVEL_ERROR, "ppose");
}

class OnnxRuntimeNetwork final : public Network {
 public:
  OnnxRuntimeNetwork(const std::string& onnx, int threads)
      : session_(environment_, onnx.data(), onnx.size(), options(threads)) {
    if (session_.GetInputCount() != 1 || session_.GetOutputCount() != 1) {
      throw Error("expected one input and one output");
    }
    const auto input = session_.GetInputTypeInfo(0), output = session_.GetOutputTypeInfo(0);
    if (!is(input, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) ||
        !is(output, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)) {
      throw Error("expected a uint8 input and a float32 output");
    }
    const Ort::AllocatorWithDefaultOptions allocator;
    input_ = session_.GetInputNameAllocated(0, allocator).get();
    output_ = session_.GetOutputNameAllocated(0, allocator).get();
  }

 protected:
  std::vector<Maps> run(const Batch& batch) override try {
    const std::array<std::int64_t, 4> shape{batch.count, batch.height, batch.width, 3};
    // ONNX Runtime does not write inputs, but its C++ API takes non-const pointers.
    auto* bytes = const_cast<unsigned char*>(batch.bytes.data());
    const Ort::Value images = Ort::Value::CreateTensor<unsigned char>(
        memory_, bytes, batch.bytes.size(), shape.data(), shape.size());
    const char* input = input_.c_str();
    const char* output = output_.c_str();
    const auto maps = session_.Run(Ort::RunOptions(), &input, &images, 1, &output, 1);
    return split(maps[0].GetTensorTypeAndShapeInfo().GetShape(), maps[0].GetTensorData<float>(),
                 batch.count);
  } catch (const Ort::Exception& error) {
    throw Error(std::string("ONNX Runtime: ") + error.what());
  }

 private:
  static bool is(const Ort::TypeInfo& info, ONNXTensorElementDataType type) {
    return info.GetONNXType() == ONNX_TYPE_TENSOR &&
           info.GetTensorTypeAndShapeInfo().GetElementType() == type;
  }

  Ort::Env environment_ = environment();
  Ort::Session session_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::string input_, output_;
};

}  // namespace

std::unique_ptr<Network> load_network(const std::string& onnx, int threads) {
  try {
    return std::make_unique<OnnxRuntimeNetwork>(onnx, threads);
  } catch (const Ort::Exception& error) {
    throw Error(std::string("ONNX Runtime cannot load it: ") + error.what());
  }
}

std::string runtime_version() { return "ONNX Runtime " + Ort::GetVersionString(); }

}  // namespace ppose
