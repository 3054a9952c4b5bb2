/** What a test tells the reporter about itself. */
export interface WaybillMeta {
  readonly adapter: string;
  readonly id: string;
  /** Why the broker cannot keep the promise, or a part of it. */
  unsupported?: string;
}

declare module 'vitest' {
  interface TaskMeta {
    waybill?: WaybillMeta;
  }
}
