#include <openvino/openvino.hpp>

#include "ppose/error.hpp"
#include "ppose/network.hpp"

namespace ppose {
namespace {

ov::AnyMap options(int threads) {
  // The default is bfloat16 on CPUs that support it.
  ov::AnyMap made{ov::hint::inference_precision(ov::element::f32)};
  if (threads > 0) made.insert(ov::inference_num_threads(threads));
  return made;
}

class OpenVinoNetwork final : public Network {
 public:
  OpenVinoNetwork(const std::string& onnx, int threads) {
    ov::Core core;
    const auto model = core.read_model(onnx, ov::Tensor());
    if (model->inputs().size() != 1 || model->outputs().size() != 1) {
      throw Error("expected one input and one output");
    }
    if (model->input().get_element_type() != ov::element::u8 ||
        model->output().get_element_type() != ov::element::f32) {
      throw Error("expected a uint8 input and a float32 output");
    }
    request_ = core.compile_model(model, "CPU", options(threads)).create_infer_request();
  }

 protected:
  std::vector<Maps> run(const Batch& batch) override try {
    const auto side = [](int value) { return static_cast<std::size_t>(value); };
    const ov::Shape shape{side(batch.count), side(batch.height), side(batch.width), 3};
    request_.set_input_tensor(ov::Tensor(ov::element::u8, shape, batch.bytes.data()));
    request_.infer();
    const ov::Tensor maps = request_.get_output_tensor();
    const ov::Shape found = maps.get_shape();
    return split({found.begin(), found.end()}, maps.data<const float>(), batch.count);
  } catch (const ov::Exception& error) {
    throw Error(std::string("OpenVINO: ") + error.what());
  }

 private:
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Network> load_network(const std::string& onnx, int threads) {
  try {
    return std::make_unique<OpenVinoNetwork>(onnx, threads);
  } catch (const ov::Exception& error) {
    throw Error(std::string("OpenVINO cannot load it: ") + error.what());
  }
}

std::string runtime_version() {
  return std::string("OpenVINO ") + ov::get_openvino_version().buildNumber;
}

}  // namespace ppose
