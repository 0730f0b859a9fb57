#include <napi.h>

#include "binding/call.h"
#include "binding/families.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  if (!whittle::init_async(env, exports)) {
    Napi::Error::New(env, "whittle: cannot set up asynchronous calls").ThrowAsJavaScriptException();
    return exports;
  }
  whittle::init_system(env, exports);
  whittle::init_binary(env, exports);
  whittle::init_codebook(env, exports);
  whittle::init_cuda(env, exports);
  whittle::init_cuda_select(env, exports);
  whittle::init_cuda_sparse(env, exports);
  whittle::init_cuda_distill(env, exports);
  whittle::init_device(env, exports);
  whittle::init_distill(env, exports);
  whittle::init_factor(env, exports);
  whittle::init_gemm(env, exports);
  whittle::init_paged(env, exports);
  whittle::init_select(env, exports);
  whittle::init_quantize(env, exports);
  whittle::init_handles(env, exports);
  whittle::init_gemm_int8(env, exports);
  whittle::init_sparse(env, exports);
  whittle::init_session(env, exports);
  whittle::init_gemm_weight(env, exports);
  whittle::init_svd(env, exports);
  return exports;
}

NODE_API_MODULE(whittle, init)
