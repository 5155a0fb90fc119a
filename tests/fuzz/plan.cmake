forebay_fuzz(plan SOURCES plan.cc ${PROJECT_SOURCE_DIR}/tests/plan/sample_plan.cc SEEDS plan_seeds.cc LIBS forebay_plan)
