// One initialiser a kernel family; each adds its functions to the exports.
#pragma once
#include <node_api.h>

namespace whittle {

void init_binary(napi_env env, napi_value exports);
void init_codebook(napi_env env, napi_value exports);
void init_cuda(napi_env env, napi_value exports);
void init_cuda_select(napi_env env, napi_value exports);
void init_cuda_sparse(napi_env env, napi_value exports);
void init_cuda_distill(napi_env env, napi_value exports);
void init_quantize(napi_env env, napi_value exports);
void init_system(napi_env env, napi_value exports);
void init_device(napi_env env, napi_value exports);
void init_distill(napi_env env, napi_value exports);
void init_factor(napi_env env, napi_value exports);
void init_gemm(napi_env env, napi_value exports);
void init_paged(napi_env env, napi_value exports);
void init_select(napi_env env, napi_value exports);
void init_handles(napi_env env, napi_value exports);
void init_gemm_int8(napi_env env, napi_value exports);
void init_sparse(napi_env env, napi_value exports);
void init_session(napi_env env, napi_value exports);
void init_gemm_weight(napi_env env, napi_value exports);
void init_svd(napi_env env, napi_value exports);

}  // namespace whittle
