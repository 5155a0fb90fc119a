// raw_read asks whether the user interrupted; here nobody does.
#include "console.h"

namespace forebay::tools {

bool interrupted() { return false; }
Status check_interrupted() {
  return {};
}

}  // namespace forebay::tools
