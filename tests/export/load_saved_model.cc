// Loads a SavedModel as TF Serving does, runs one signature, and prints what it gives.
//
//   load_saved_model FOLDER SIGNATURE [OP_LIBRARY ...]
//
// A tensor is written as words: its name, its type, its rank, its sizes, its values; a string as "x"
// and hexadecimal digits. Inputs are read from stdin, outputs go to stdout.

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/public/session.h"

namespace {

using tensorflow::DataType;
using tensorflow::Tensor;

std::string FromHex(const std::string& word) {
  std::string text;
  for (size_t i = 1; i < word.size(); i += 2) {
    text.push_back(static_cast<char>(std::stoi(word.substr(i, 2), nullptr, 16)));
  }
  return text;
}

std::string ToHex(const std::string& text) {
  static const char digits[] = "0123456789abcdef";
  std::string word = "x";
  for (unsigned char c : text) {
    word.push_back(digits[c >> 4]);
    word.push_back(digits[c & 15]);
  }
  return word;
}

template <typename T>
void Read(Tensor* tensor) {
  auto values = tensor->flat<T>();
  for (int64_t i = 0; i < values.size(); ++i) std::cin >> values(i);
}

template <typename T>
void Write(const Tensor& tensor) {
  std::cout.precision(9);
  auto values = tensor.flat<T>();
  for (int64_t i = 0; i < values.size(); ++i) std::cout << ' ' << values(i);
}

bool ReadTensor(std::string* name, Tensor* tensor) {
  std::string type;
  int rank;
  if (!(std::cin >> *name >> type >> rank)) return false;
  tensorflow::TensorShape shape;
  for (int i = 0; i < rank; ++i) {
    int64_t size;
    std::cin >> size;
    shape.AddDim(size);
  }
  DataType dtype;
  if (!tensorflow::DataTypeFromString(type, &dtype)) return false;
  *tensor = Tensor(dtype, shape);
  switch (dtype) {
    case tensorflow::DT_FLOAT: Read<float>(tensor); break;
    case tensorflow::DT_INT32: Read<int32_t>(tensor); break;
    case tensorflow::DT_INT64: Read<int64_t>(tensor); break;
    case tensorflow::DT_BOOL: Read<bool>(tensor); break;
    default: {
      auto values = tensor->flat<tensorflow::tstring>();
      for (int64_t i = 0; i < values.size(); ++i) {
        std::string word;
        std::cin >> word;
        values(i) = FromHex(word);
      }
    }
  }
  return true;
}

void WriteTensor(const std::string& name, const Tensor& tensor) {
  std::cout << name << ' ' << tensorflow::DataTypeString(tensor.dtype()) << ' ' << tensor.dims();
  for (int i = 0; i < tensor.dims(); ++i) std::cout << ' ' << tensor.dim_size(i);
  if (tensor.dtype() == tensorflow::DT_FLOAT) {
    Write<float>(tensor);
  } else if (tensor.dtype() == tensorflow::DT_INT64) {
    Write<int64_t>(tensor);
  } else {
    auto values = tensor.flat<tensorflow::tstring>();
    for (int64_t i = 0; i < values.size(); ++i) std::cout << ' ' << ToHex(std::string(values(i)));
  }
  std::cout << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 3; i < argc; ++i) {
    TF_Status* status = TF_NewStatus();
    TF_LoadLibrary(argv[i], status);
    if (TF_GetCode(status) != TF_OK) {
      std::cerr << argv[i] << ": " << TF_Message(status) << '\n';
      return 1;
    }
  }
  tensorflow::SavedModelBundle bundle;
  auto loaded = tensorflow::LoadSavedModel(tensorflow::SessionOptions(), tensorflow::RunOptions(),
                                           argv[1], {"serve"}, &bundle);
  if (!loaded.ok()) {
    std::cerr << loaded.ToString() << '\n';
    return 1;
  }
  const auto& signature = bundle.meta_graph_def.signature_def().at(argv[2]);
  std::vector<std::pair<std::string, Tensor>> feeds;
  std::string name;
  Tensor tensor;
  while (ReadTensor(&name, &tensor)) {
    feeds.emplace_back(signature.inputs().at(name).name(), tensor);
  }
  std::vector<std::string> names, fetches;
  for (const auto& output : signature.outputs()) {
    names.push_back(output.first);
    fetches.push_back(output.second.name());
  }
  std::vector<Tensor> outputs;
  auto ran = bundle.session->Run(feeds, fetches, {}, &outputs);
  if (!ran.ok()) {
    std::cerr << ran.ToString() << '\n';
    return 1;
  }
  for (size_t i = 0; i < names.size(); ++i) WriteTensor(names[i], outputs[i]);
  return 0;
}
