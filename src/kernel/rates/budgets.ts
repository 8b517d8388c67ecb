import { andThen } from '../and-then.ts';
import { required, service } from '../app.ts';
import { Counters, type Count } from './counters.ts';

/** Seconds that a budget is for, from the first operation on. */
export const windowS = 60;

/** Points that operations may cost within a window. */
export interface BudgetSettings {
  /** Of a person or an API key. */
  readonly points: number;
  /** Of everybody at one address who is not signed in. */
  readonly anonymousPoints: number;
}

export const BudgetSettings = required<BudgetSettings>('budget settings');

/** What an operation did to its client's budget. */
export interface Rate {
  readonly limit: number;
  /** Points that this operation cost. */
  readonly cost: number;
  readonly remaining: number;
  readonly resetAt: Date;
  /** False: the operation costs more than was left. */
  readonly allowed: boolean;
}

function rateOf({ points, resetAt }: Count, limit: number, cost: number): Rate {
  const allowed = points <= limit;
  const used = allowed ? points : points - cost;
  return { limit, cost, remaining: Math.min(Math.max(limit - used, 0), limit), resetAt, allowed };
}

/**
 * Query cost by client and window, like GitHub's and Shopify's APIs. Counted where SWITCHYARD_RATES says; in memory each
 * process counts for itself, so that with n processes a client has up to n budgets.
 * @see https://docs.github.com/en/graphql/overview/rate-limits-and-node-limits-for-the-graphql-api
 * @see https://shopify.dev/docs/api/usage/rate-limits
 */
export const Budgets = service('budgets', (app) => {
  const { budgets: counter, hash } = app.use(Counters);
  const settings = app.use(BudgetSettings);
  return {
    /**
     * Takes the cost of an operation from the client's budget, which may be that of so many; from one that has too
     * little left, nothing. At once where it is counted in memory.
     */
    spend(client: string, anonymous: boolean, cost: number, times = 1): Rate | Promise<Rate> {
      const limit = times * (anonymous ? settings.anonymousPoints : settings.points);
      const key = hash(`budget\0${client}`);
      return andThen(counter.add(key, cost, windowS), (count) => {
        const rate = rateOf(count, limit, cost);
        // What is not done is not paid for; with nothing left there is nothing to give back, and no second step.
        return rate.allowed || count.points - cost >= limit ? rate : giveBack(key, cost).then(() => rate);
      });
    },
  };

  async function giveBack(key: string, cost: number): Promise<void> {
    const { points: left } = await counter.add(key, -cost, windowS);
    // The window has ended meanwhile: what was taken from the next one goes back there.
    if (left < 0) await counter.add(key, Math.min(cost, -left), windowS);
  }
});
