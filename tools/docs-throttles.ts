import type { RoutePolicy } from '../src/kernel/http/routes.ts';
import type { Throttle } from '../src/kernel/rates/throttles.ts';

/** Names of the throttles of a verb. */
export const throttlesOf = (throttles: readonly Throttle[], verb: string): string[] =>
  throttles.flatMap(({ name, verbs = [] }) => (verbs.includes(verb) ? [name] : [])).toSorted();

/** Verbs and routes that each throttle bounds. @throws for one that bounds nothing, or a verb that no root field has */
export function boundBy(
  throttles: readonly Throttle[],
  verbs: ReadonlySet<string>,
  routes: readonly RoutePolicy[],
): ReadonlyMap<string, readonly string[]> {
  return new Map(
    throttles.map(({ name, verbs: own = [] }) => {
      const unknown = own.find((verb) => !verbs.has(verb));
      if (unknown !== undefined)
        throw new Error(`The throttle ${name} names ${unknown}, which is the verb of no field`);
      const named = routes.filter(({ limits }) => limits.split('; ').includes(`the throttle ${name}`));
      const bound = [...own, ...named.map(({ path }) => path)].toSorted();
      if (bound.length === 0) throw new Error(`The throttle ${name} names no verb, and no route names it`);
      return [name, bound];
    }),
  );
}
