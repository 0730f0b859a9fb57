export { devices, setThreads, type Devices } from './devices'
