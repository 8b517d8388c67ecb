import { builder } from '../graphql/builder.ts';
import type { Rate } from './budgets.ts';

const RateLimitRef = builder.objectRef<Rate>('RateLimit').implement({
  description: 'Points that your operations may cost, and what this one cost. The headers of the answer say the same.',
  fields: (t) => ({
    limit: t.exposeInt('limit', { description: 'Points of a window.' }),
    cost: t.exposeInt('cost', { description: 'Points that this operation cost.' }),
    remaining: t.exposeInt('remaining', { description: 'Points that are left, after this operation.' }),
    resetAt: t.expose('resetAt', { type: 'DateTime', description: 'When the window ends and all points are back.' }),
  }),
});

builder.queryField('rateLimit', (t) =>
  t.field({
    type: RateLimitRef,
    access: 'public',
    description: 'What is left of your budget for operations.',
    resolve: (_, __, { rate }) => {
      if (!rate) throw new Error('An operation that no transport admitted');
      return rate;
    },
  }),
);
