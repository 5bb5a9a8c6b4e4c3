#include <iostream>

#include "tools/command_line.h"
#include "tools/inspect_command.h"
#include "tools/memory_at_start.h"
#include "tools/standard_output.h"

const size_t waypoint::kBytesToStart = size_t{4} << 20;

int main(int argc, char** argv) {
  waypoint::CatchInterrupts();
  return waypoint::RunTool([&] {
    return waypoint::InspectMain(argc, argv,
                                 {waypoint::PosixFileSystem(), std::cout, std::cerr, waypoint::StderrIsTerminal()});
  });
}
