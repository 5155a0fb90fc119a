forebay_fuzz(onnx_model SOURCES onnx_model_fuzz.cc LIBS forebay_test_onnx SEEDS onnx_model_seeds.cc)
