#include <iostream>

#include "tools/command_line.h"
#include "tools/convert_command.h"
#include "tools/memory_at_start.h"
#include "tools/resident_memory.h"
#include "tools/run_logits.h"
#include "tools/standard_output.h"

const size_t waypoint::kBytesToStart = size_t{4} << 20;

int main(int argc, char** argv) {
  waypoint::ReturnFreedBlocks();
  waypoint::CatchInterrupts();
  return waypoint::RunTool([&] {
    return waypoint::ConvertMain(argc, argv,
                                 {waypoint::PosixFileSystem(), std::cout, std::cerr, waypoint::StderrIsTerminal(),
                                  waypoint::LogitsProgramBeside()});
  });
}
