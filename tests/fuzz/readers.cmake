# Preset fuzz: the readers, compiled with what they need of the rooms and no more. (clang does not build the
# kernels.)
find_package(fmt REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(Protobuf REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(sentencepiece REQUIRED IMPORTED_TARGET sentencepiece)

# add_reader(NAME SOURCE... LIBRARIES LIBRARY...)
function(add_reader name)
  cmake_parse_arguments(PARSE_ARGV 1 reader "" "" "LIBRARIES")
  list(TRANSFORM reader_UNPARSED_ARGUMENTS PREPEND ${CMAKE_SOURCE_DIR}/)
  add_library(${name} STATIC ${reader_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC fmt::fmt ${reader_LIBRARIES})
endfunction()

add_reader(tensor
  kernels/strided/strided.cpp kernels/strided/strided_cpu.cpp
  kernels/tensor/allocator.cpp kernels/tensor/isa.cpp kernels/tensor/memory.cpp kernels/tensor/shape.cpp kernels/tensor/tensor.cpp
  kernels/tensor/timeline.cpp
  LIBRARIES ${DNNL_LIBRARY})

set(dataset_reader dataset_reader)
add_reader(dataset_reader
  data/dataset_index.cpp data/documents.cpp data/hold_out.cpp data/indexed_documents.cpp data/indexed_writer.cpp data/mapped_file.cpp
  data/output_file.cpp
  LIBRARIES PkgConfig::xxhash)

set(checkpoint_reader checkpoint_reader)
set(generated ${CMAKE_BINARY_DIR}/trainer/checkpoint/manifest.pb.cc)
add_custom_command(OUTPUT ${generated}
  COMMAND protobuf::protoc --proto_path=${CMAKE_SOURCE_DIR} --cpp_out=${CMAKE_BINARY_DIR} trainer/checkpoint/manifest.proto
  DEPENDS ${CMAKE_SOURCE_DIR}/trainer/checkpoint/manifest.proto)
set_source_files_properties(${generated} PROPERTIES COMPILE_OPTIONS -w)
add_reader(checkpoint_reader
  trainer/checkpoint/box.cpp trainer/checkpoint/checkpoint_folder.cpp trainer/checkpoint/checkpoint_reader.cpp trainer/checkpoint/file.cpp
  trainer/checkpoint/manifest.cpp trainer/checkpoint/pieces.cpp trainer/checkpoint/safetensors.cpp
  LIBRARIES tensor nlohmann_json::nlohmann_json protobuf::libprotobuf PkgConfig::xxhash)
target_sources(checkpoint_reader PRIVATE ${generated})
target_include_directories(checkpoint_reader SYSTEM PRIVATE ${CMAKE_BINARY_DIR})

set(config_reader config_reader)
file(GLOB sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/trainer/config/*.cpp)
list(FILTER sources EXCLUDE REGEX /reference)  # prints the documentation
add_reader(config_reader
  ${sources} data/sentencepiece_tokenizer.cpp data/text_source.cpp data/tokenizer.cpp
  kernels/autograd/tape.cpp kernels/rope/rope.cpp kernels/rope/rope_cpu.cpp
  parallel/comm/group.cpp parallel/mesh.cpp parallel/parameter.cpp parallel/pipeline_schedule.cpp
  LIBRARIES tensor yaml-cpp PkgConfig::sentencepiece)
