// Opens the files of a binding: a buffered handle always, one for direct reads where the file system gives it, both of the same inode.
#pragma once

#include <memory>
#include <string>

#include "base/file.h"
#include "plan/binding.h"

namespace forebay::refit {

// `buffered` is open already. The direct handle is opened beneath `folder`, or where that is empty by the path `name`, the user's
// own word (links are followed). corruption when it is not the same file; unavailable when direct reads are required and refused.
Result<plan::BoundFile> bind_file(FileSystem& fs, std::shared_ptr<File> buffered, const std::string& folder,
                                  const std::string& name, DirectIo direct);

}  // namespace forebay::refit
