// Seeds of a harness, made by code so that the tree holds no binaries.
#pragma once

#include <string>
#include <vector>

std::vector<std::string> forebay_fuzz_seeds();
