import type { ServerResponse } from 'node:http';

// One for all operations of a batch.
const leaving = new WeakMap<ServerResponse, AbortSignal>();

/** Aborts when a client goes before it has its answer. */
export function goneOf(res: ServerResponse): AbortSignal {
  let signal = leaving.get(res);
  if (!signal) {
    const abort = new AbortController();
    const gone = () => {
      if (!res.writableFinished) abort.abort(new Error('The client is gone.'));
    };
    // It may be asked for late.
    if (res.closed || res.destroyed) gone();
    else res.once('close', gone);
    signal = abort.signal;
    leaving.set(res, signal);
  }
  return signal;
}
