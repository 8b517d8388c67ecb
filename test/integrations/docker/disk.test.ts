import { expect, test } from 'vitest';
import { sizesOf } from '../../../src/integrations/docker/disk.ts';

const of = (application: string, host = 'here') => ({ host, application });
const mine = (labels: Readonly<Record<string, string>> | null | undefined) =>
  labels?.['host'] === 'here' ? labels['application'] : undefined;

test('layers that images share count once for an application, containers with their volumes, strangers not at all', () => {
  const sizes = sizesOf(
    {
      Images: [
        { Size: 130, SharedSize: 100, Labels: of('a') },
        { Size: 125, SharedSize: 110, Labels: of('a') },
        { Size: 70, SharedSize: -1, Labels: of('b') },
        { Size: 9_000, SharedSize: 0, Labels: of('a', 'there') },
        { Size: 9_000, SharedSize: 0, Labels: null },
      ],
      Containers: [
        {
          SizeRw: 7,
          Labels: of('a'),
          Mounts: [
            { Type: 'volume', Name: 'data' },
            { Type: 'bind', Name: 'data' },
          ],
        },
        { Labels: of('c'), Mounts: null },
        { SizeRw: 9_000, Labels: {} },
      ],
      Volumes: [
        { Name: 'data', UsageData: { Size: 5 } },
        { Name: 'unknown', UsageData: { Size: -1 } },
      ],
    },
    mine,
  );
  expect(Object.fromEntries(sizes)).toEqual({ a: 30 + 15 + 110 + 7 + 5, b: 70, c: 0 });
});

test('an engine that has nothing tells nothing', () => {
  expect(sizesOf({ Images: null, Containers: null, Volumes: null }, mine).size).toBe(0);
});
