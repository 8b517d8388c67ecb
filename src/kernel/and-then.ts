/**
 * Goes on with what is there, at once, or with what a promise gives. What is called for each request waits only where
 * there is something to wait for: a promise that is there already costs a turn of the queue, and holds what is around it.
 */
export const andThen = <T, R>(value: T | Promise<T>, go: (value: T) => R | Promise<R>): R | Promise<R> =>
  value instanceof Promise ? value.then(go) : go(value);
