// Loads a SavedModel as TF Serving does, runs it once, and prints what it gives.
//
// The arguments of `run` are those of a main function: FOLDER [OP_LIBRARY ...]
//
// From stdin: how many outputs, their tensors, and then each input as words: its tensor, its type
// (the number that TensorFlow gives it), its rank, its sizes, its values; a string as "x" and
// hexadecimal digits. To stdout: a line for each output, without its tensor.
//
// Only headers of the C API, which compile in a second; behind it is the loader in C++ of Serving.

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

namespace {

TF_Status* status = TF_NewStatus();

void Check(const std::string& what) {
  if (TF_GetCode(status) == TF_OK) return;
  std::cerr << what << ": " << TF_Message(status) << '\n';
  exit(1);
}

TF_Output Find(TF_Graph* graph, const std::string& tensor) {
  size_t colon = tensor.find(':');
  TF_Operation* operation = TF_GraphOperationByName(graph, tensor.substr(0, colon).c_str());
  if (operation == nullptr) {
    std::cerr << "no tensor " << tensor << '\n';
    exit(1);
  }
  return {operation, std::stoi(tensor.substr(colon + 1))};
}

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
void Read(TF_Tensor* tensor) {
  T* values = static_cast<T*>(TF_TensorData(tensor));
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i) std::cin >> values[i];
}

template <typename T>
void Write(const TF_Tensor* tensor) {
  const T* values = static_cast<const T*>(TF_TensorData(tensor));
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i) std::cout << ' ' << values[i];
}

TF_Tensor* ReadTensor() {
  int type, rank;
  std::cin >> type >> rank;
  TF_DataType dtype = static_cast<TF_DataType>(type);
  std::vector<int64_t> sizes(rank);
  size_t bytes = dtype == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(dtype);
  for (int64_t& size : sizes) {
    std::cin >> size;
    bytes *= size;
  }
  TF_Tensor* tensor = TF_AllocateTensor(dtype, sizes.data(), rank, bytes);
  switch (dtype) {
    case TF_FLOAT: Read<float>(tensor); break;
    case TF_INT32: Read<int32_t>(tensor); break;
    case TF_INT64: Read<int64_t>(tensor); break;
    case TF_BOOL: Read<bool>(tensor); break;
    default: {
      TF_TString* values = static_cast<TF_TString*>(TF_TensorData(tensor));
      for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i) {
        std::string word;
        std::cin >> word;
        std::string text = FromHex(word);
        TF_StringInit(&values[i]);
        TF_StringCopy(&values[i], text.data(), text.size());
      }
    }
  }
  return tensor;
}

void WriteTensor(const TF_Tensor* tensor) {
  std::cout.precision(9);
  std::cout << TF_TensorType(tensor) << ' ' << TF_NumDims(tensor);
  for (int i = 0; i < TF_NumDims(tensor); ++i) std::cout << ' ' << TF_Dim(tensor, i);
  if (TF_TensorType(tensor) == TF_FLOAT) {
    Write<float>(tensor);
  } else if (TF_TensorType(tensor) == TF_INT64) {
    Write<int64_t>(tensor);
  } else {
    const TF_TString* values = static_cast<const TF_TString*>(TF_TensorData(tensor));
    for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i) {
      std::string text(TF_StringGetDataPointer(&values[i]), TF_StringGetSize(&values[i]));
      std::cout << ' ' << ToHex(text);
    }
  }
  std::cout << '\n';
}

}  // namespace

extern "C" int run(int argc, char** argv) {
  for (int i = 2; i < argc; ++i) {
    TF_LoadLibrary(argv[i], status);
    Check(argv[i]);
  }
  const char* tag = "serve";
  TF_Graph* graph = TF_NewGraph();
  TF_Session* session = TF_LoadSessionFromSavedModel(TF_NewSessionOptions(), nullptr, argv[1], &tag,
                                                     1, graph, nullptr, status);
  Check("loading");
  int count;
  std::string name;
  std::vector<TF_Output> feeds, fetches;
  std::vector<TF_Tensor*> inputs;
  for (std::cin >> count; count > 0; --count) {
    std::cin >> name;
    fetches.push_back(Find(graph, name));
  }
  while (std::cin >> name) {
    feeds.push_back(Find(graph, name));
    inputs.push_back(ReadTensor());
  }
  std::vector<TF_Tensor*> outputs(fetches.size());
  TF_SessionRun(session, nullptr, feeds.data(), inputs.data(), inputs.size(), fetches.data(),
                outputs.data(), outputs.size(), nullptr, 0, nullptr, status);
  Check("running");
  for (const TF_Tensor* tensor : outputs) WriteTensor(tensor);
  std::cout.flush();
  return 0;
}
