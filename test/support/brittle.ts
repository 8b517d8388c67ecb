// Fields that fail, for tests of what becomes of that. It is imported by the probe, since the schema is built once.
import { builder } from '../../src/kernel/graphql/builder.ts';

/** What fails later does so when a test rejects `late`; `asked` tells whether something waits for that. */
export const failing = { late: Promise.withResolvers<string>(), asked: false };
/** What fails at once is the last one; the others fail when a test says so. */
const some = [{ failsNow: false }, { failsNow: false }, { failsNow: true }] as const;
type Brittle = (typeof some)[number];

const BrittleRef = builder.objectRef<Brittle>('Brittle');
BrittleRef.implement({
  description: 'For tests: what fails.',
  fields: (t) => ({
    now: t.string({
      description: 'Fails at once.',
      resolve: ({ failsNow }) => {
        if (failsNow) throw new Error('now');
        return 'now';
      },
    }),
    later: t.string({
      description: 'Fails later.',
      resolve: () => {
        failing.asked = true;
        return failing.late.promise;
      },
    }),
    parts: t.field({ type: [BrittleRef], description: 'The same again.', resolve: () => [...some] }),
  }),
});
const field = { type: [BrittleRef], access: 'public', description: 'For tests: what fails.' } as const;
builder.queryFields((t) => ({
  brittle: t.field({ ...field, type: [BrittleRef], resolve: () => [...some] }),
  brittleOnes: t.field({ ...field, type: [BrittleRef], resolve: async () => [...some] }),
}));
builder.subscriptionFields((t) => ({
  brittleEvents: t.field({
    ...field,
    type: [BrittleRef],
    subscribe: async function* () {
      yield await Promise.resolve([...some]);
    },
    resolve: (items) => items,
  }),
}));
