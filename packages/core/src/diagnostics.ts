import { channel } from 'node:diagnostics_channel';
import type { WaybillError } from './errors.ts';
import type { Message, SubscriptionState } from './types.ts';

/** `waybill:publish`: a publish has ended. */
export interface PublishEvent {
  readonly adapter: string;
  readonly topic: string;
  readonly id: string;
  readonly key: string | undefined;
  readonly type: string | undefined;
  /** Of the body. */
  readonly bytes: number;
  /** Milliseconds from the call to the confirmation, or to the failure. */
  readonly duration: number;
  /** How many times it was handed to the broker. */
  readonly sends: number;
  /** Absent when it was stored. */
  readonly error?: unknown;
}

/**
 * `waybill:handle`: an attempt begins or has ended. The two events of an attempt have the same `messages`, so what
 * a subscriber remembers at the start it finds again by that array.
 */
export interface HandleEvent {
  readonly adapter: string;
  readonly phase: 'start' | 'end';
  readonly topic: string;
  readonly group: string;
  /** One message, or the batch. */
  readonly messages: readonly Message[];
  /** Milliseconds that the handler ran; 0 at the start. */
  readonly duration: number;
  /** What the handler threw, or why the attempt was cut short. */
  readonly error?: unknown;
}

/** `waybill:settle`: the broker has answered to the end of a delivery. */
export interface SettleEvent {
  readonly adapter: string;
  readonly topic: string;
  readonly group: string;
  /** `undefined` on a foreign message without one. */
  readonly id: string | undefined;
  readonly verb: 'ack' | 'giveBack' | 'deadLetter' | 'abandon';
  readonly attempt: number;
  readonly result: 'applied' | 'lost' | 'failed';
  /** Why it failed; it is repeated. */
  readonly error?: WaybillError;
}

/** `waybill:subscription`: a subscription has gone from one state to another. */
export interface SubscriptionEvent {
  readonly adapter: string;
  readonly topic: string;
  readonly group: string;
  readonly from: SubscriptionState | undefined;
  readonly to: SubscriptionState;
  /** Why, where there is a failure behind it. */
  readonly error?: unknown;
}

/** What each channel of `node:diagnostics_channel` carries. */
export interface DiagnosticEvents {
  readonly 'waybill:publish': PublishEvent;
  readonly 'waybill:handle': HandleEvent;
  readonly 'waybill:settle': SettleEvent;
  readonly 'waybill:subscription': SubscriptionEvent;
}

interface Channel<Name extends keyof DiagnosticEvents> {
  /** Ask before the event is made: nobody listening costs nothing. */
  readonly hasSubscribers: boolean;
  publish(event: DiagnosticEvents[Name]): void;
}

const open = <Name extends keyof DiagnosticEvents>(name: Name): Channel<Name> => channel(name);

/** `if (diagnostics.settle.hasSubscribers) diagnostics.settle.publish({ … })` */
export const diagnostics = {
  publish: open('waybill:publish'),
  handle: open('waybill:handle'),
  settle: open('waybill:settle'),
  subscription: open('waybill:subscription'),
} as const;
