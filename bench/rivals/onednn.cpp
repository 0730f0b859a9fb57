// oneDNN's int8 product as a rival: weights packed once in the layout it asks for, result memory reused, timed in here.
// usage: onednn (OMP_NUM_THREADS says how many threads); one command a line, one answer a line:
//   version                              -> ok 2.6.3
//   prepare ID M N K SIGNED A_FILE B_FILE -> ok        a: M x K bytes, b: K x N int8; the faster of matmul and inner product
//   run ID REPEATS                       -> ok MS     of one repetition
//   result ID FILE                       -> ok        M x N int32
//   drop ID                              -> ok
#include <stdint.h>
#include <stdio.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

using dnnl::memory;

namespace {

struct Primitive {
  dnnl::primitive primitive;
  std::unordered_map<int, memory> args;
};

struct Job {
  int64_t m, n, k;
  std::vector<uint8_t> a;
  std::vector<int8_t> b;
  std::vector<int32_t> y;
  Primitive best;
};

dnnl::engine engine(dnnl::engine::kind::cpu, 0);
dnnl::stream stream(engine);

template <class T>
std::vector<T> read(const std::string& path, int64_t count) {
  std::vector<T> data(static_cast<size_t>(count));
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(data.data()), count);
  return data;
}

memory reordered(memory from, const memory::desc& to) {
  if (from.get_desc() == to) return from;
  memory out(to, engine);
  dnnl::reorder(from, out).execute(stream, from, out);
  stream.wait();
  return out;
}

double run(const Primitive& p, int repeats) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; i++) {
    p.primitive.execute(stream, p.args);
    stream.wait();
  }
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / repeats;
}

Primitive as_matmul(Job& j, memory::data_type type) {
  using tag = memory::format_tag;
  const memory::desc src({j.m, j.k}, type, tag::ab), dst({j.m, j.n}, memory::data_type::s32, tag::ab);
  const memory::desc any({j.k, j.n}, memory::data_type::s8, tag::any), plain({j.k, j.n}, memory::data_type::s8, tag::ab);
  const dnnl::matmul::primitive_desc pd(dnnl::matmul::desc(src, any, dst), engine);
  return {dnnl::matmul(pd),
          {{DNNL_ARG_SRC, memory(src, engine, j.a.data())},
           {DNNL_ARG_WEIGHTS, reordered(memory(plain, engine, j.b.data()), pd.weights_desc())},
           {DNNL_ARG_DST, memory(dst, engine, j.y.data())}}};
}

Primitive as_inner_product(Job& j, memory::data_type type) {
  using tag = memory::format_tag;
  const memory::desc src({j.m, j.k}, type, tag::ab), dst({j.m, j.n}, memory::data_type::s32, tag::ab);
  const memory::desc any({j.n, j.k}, memory::data_type::s8, tag::any), plain({j.n, j.k}, memory::data_type::s8, tag::ba);
  const dnnl::inner_product_forward::primitive_desc pd(
      dnnl::inner_product_forward::desc(dnnl::prop_kind::forward_inference, src, any, dst), engine);
  return {dnnl::inner_product_forward(pd),
          {{DNNL_ARG_SRC, memory(src, engine, j.a.data())},
           {DNNL_ARG_WEIGHTS, reordered(memory(plain, engine, j.b.data()), pd.weights_desc())},
           {DNNL_ARG_DST, memory(dst, engine, j.y.data())}}};
}

void prepare(Job& j, bool is_signed) {
  const auto type = is_signed ? memory::data_type::s8 : memory::data_type::u8;
  double least = 1e30;
  std::string error;
  for (auto make : {as_matmul, as_inner_product}) try {
      const Primitive p = make(j, type);
      run(p, 1);
      double ms = 1e30;
      for (int i = 0; i < 5; i++) ms = std::min(ms, run(p, 1));
      if (ms < least) least = ms, j.best = p;
    } catch (const dnnl::error& e) {
      error = e.what();
    }
  if (least == 1e30) throw std::runtime_error(error);
}

}  // namespace

int main() {
  std::map<int, Job> jobs;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    std::string what, a, b;
    int id = 0;
    in >> what >> id;
    try {
      if (what == "version") {
        const dnnl_version_t* v = dnnl_version();
        printf("ok %d.%d.%d\n", v->major, v->minor, v->patch);
      } else if (what == "prepare") {
        Job& j = jobs[id];
        bool is_signed;
        in >> j.m >> j.n >> j.k >> is_signed >> a >> b;
        j.a = read<uint8_t>(a, j.m * j.k);
        j.b = read<int8_t>(b, j.k * j.n);
        j.y.assign(static_cast<size_t>(j.m * j.n), 0);
        prepare(j, is_signed);
        printf("ok\n");
      } else if (what == "run") {
        int repeats;
        in >> repeats;
        printf("ok %.9g\n", run(jobs.at(id).best, repeats));
      } else if (what == "result") {
        in >> a;
        const Job& j = jobs.at(id);
        std::ofstream(a, std::ios::binary).write(reinterpret_cast<const char*>(j.y.data()), j.m * j.n * 4);
        printf("ok\n");
      } else {
        jobs.erase(id);
        printf("ok\n");
      }
    } catch (const std::exception& e) {
      jobs.erase(id);
      printf("error %s\n", e.what());
    }
    fflush(stdout);
  }
}
