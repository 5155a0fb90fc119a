if(TARGET forebay_refit)
  forebay_fuzz(safetensors_header SOURCES safetensors_header_fuzz.cc SEEDS safetensors_header_seeds.cc LIBS forebay_refit)
endif()
