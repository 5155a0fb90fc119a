#include "fuzz_seeds.h"

std::vector<std::string> forebay_fuzz_seeds() {
  return {
      "location=w\noffset=16\nlength=12\n\n\x03\x04",
      "location=sub/v\n\n\x05",
      "location=w\nchecksum=00ff\noffset=4095\n\n\x01",
      "location=../secret\noffset=0\nlength=4\n\n\x04",
      "location=l\n\n\x04",
      "location=h\n\n\x04",
      "location=p\n\n\x04",
      "location=u/secret\n\n\x04",
      "location=/proc/self/fd/0\n\n\x04",
      "location=sub/../../secret\nlength=4\n\n\x04",
      "offset=18446744073709551615\nlength=2\nlocation=w\n\n\x02",
  };
}
