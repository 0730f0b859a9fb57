export { nmf, nmfAsync, type NmfOptions, type NmfResult } from './nmf'
export { cp, cpAsync, type CpOptions, type CpResult } from './cp'
export { tucker, tuckerAsync, vbmfRank, type TuckerOptions, type TuckerResult, type VbmfRank } from './tucker'
export { separable, separableAsync, type SeparableOptions, type SeparableResult } from './separable'
