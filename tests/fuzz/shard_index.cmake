if(TARGET forebay_refit)
  forebay_fuzz(shard_index SOURCES shard_index.cc SEEDS shard_index_seeds.cc ${PROJECT_SOURCE_DIR}/tests/plan/sample_plan.cc
    LIBS forebay_refit)
endif()
