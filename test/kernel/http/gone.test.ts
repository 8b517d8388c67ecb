import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { expect, test } from 'vitest';
import { goneOf } from '#kernel/http/gone.ts';

const response = (state: object) =>
  Object.assign(new EventEmitter(), { closed: false, destroyed: false, writableFinished: false }, state);
const signalOf = (res: object) => goneOf(res as ServerResponse);

test('a client that goes is told of, also to who asks late; one that has its answer does not go', () => {
  const open = response({});
  const signal = signalOf(open);
  expect(signal.aborted).toBe(false);
  expect(signalOf(open)).toBe(signal);
  open.emit('close');
  expect(signal.aborted).toBe(true);
  expect(signalOf(response({ closed: true })).aborted).toBe(true);
  expect(signalOf(response({ destroyed: true })).aborted).toBe(true);
  expect(signalOf(response({ closed: true, writableFinished: true })).aborted).toBe(false);
});
