#include "base/npy.h"

#include <cstring>

#include <gtest/gtest.h>

#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::TempFolder;

std::string npy_file(const std::string& header, const std::string& data, char major = 1) {
  std::string file("\x93NUMPY", 6);
  file += major;
  file += '\0';
  file += static_cast<char>(header.size() & 0xff);
  file += static_cast<char>(header.size() >> 8);
  if (major > 1) file += std::string(2, '\0');
  return file + header + data;
}

TEST(Npy, RoundTripsEveryType) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  for (int i = 1; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    for (const Shape& shape : {Shape{}, Shape{5}, Shape{2, 3, 4}, Shape{0, 3}}) {
      const HostTensor tensor = test::random_tensor(dtype, shape, 7);
      ASSERT_OK(write_npy(fs, folder / "a.npy", tensor));
      const std::string file = test::read_file(folder / "a.npy");
      EXPECT_EQ((file.size() - tensor.bytes()) % 64, 0u);
      ASSERT_VALUE(const HostTensor again, read_npy(fs, folder / "a.npy", 1 << 20, dtype, &shape));
      EXPECT_EQ(again.dtype(), dtype);
      EXPECT_EQ(again.shape(), shape) << dtype_name(dtype);
      EXPECT_EQ(std::memcmp(again.data(), tensor.data(), tensor.bytes()), 0);
    }
  }
}

TEST(Npy, ColumnMajorIsTransposed) {
  const TempFolder folder;
  const float values[] = {0, 3, 1, 4, 2, 5};
  test::write_file(folder / "f.npy", npy_file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n",
                                              std::string(reinterpret_cast<const char*>(values), 24)));
  ASSERT_VALUE(const HostTensor tensor, read_npy(posix_file_system(), folder / "f.npy", 100));
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(tensor.as<float>()[i], static_cast<float>(i));
}

TEST(Npy, OtherWritersAreRead) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  const std::string data(8, '\x01');
  for (const std::string& header : {std::string("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"),
                                    std::string("{\"shape\":(2L,),\"descr\":\"<f4\",\"fortran_order\":False}   \n")}) {
    test::write_file(folder / "a.npy", npy_file(header, data));
    EXPECT_OK(read_npy(fs, folder / "a.npy", 100));
    test::write_file(folder / "b.npy", npy_file(header, data, 2));
    EXPECT_OK(read_npy(fs, folder / "b.npy", 100));
  }
}

TEST(Npy, BadFilesAreRefused) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  const auto status = [&](const std::string& file, DType wanted = DType::none) {
    test::write_file(folder / "a.npy", file);
    return read_npy(fs, folder / "a.npy", 1000, wanted).status();
  };
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
  EXPECT_OK(status(npy_file(good, std::string(8, 'x'))));
  EXPECT_CODE(status(npy_file(good, std::string(7, 'x'))), Code::corruption);
  EXPECT_CODE(status(""), Code::invalid_argument);
  EXPECT_CODE(status("PK\x03\x04 this is an npz archive"), Code::invalid_argument);
  EXPECT_CODE(status(npy_file(good, std::string(8, 'x')), DType::f64), Code::invalid_argument);
  const std::string bad[] = {
      "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }",
      "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
      "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1000,), }",
      "{'descr': '<f4', 'fortran_order': False, }",
      "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
      "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } __import__('os')",
      "{'other': '<f4', 'fortran_order': False, 'shape': (2,), }",
      "",
  };
  for (const std::string& header : bad) EXPECT_FALSE(status(npy_file(header, std::string(8, 'x'))).ok()) << header;
  for (std::size_t size = 0; size < npy_file(good, "").size(); ++size) EXPECT_FALSE(status(npy_file(good, "").substr(0, size)).ok());
  EXPECT_CODE(read_npy(fs, folder / "none.npy", 100), Code::not_found);
}

}  // namespace
}  // namespace forebay
