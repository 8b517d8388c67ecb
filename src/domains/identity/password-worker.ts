// A thread of its own: estimating takes up to 0.4 s and its dictionaries 0.3 s to load, which would stop the event loop.
import { parentPort } from 'node:worker_threads';
import { ZxcvbnFactory } from '@zxcvbn-ts/core';
import * as common from '@zxcvbn-ts/language-common';
import * as english from '@zxcvbn-ts/language-en';
import type { EstimateRequest, EstimateAnswer } from './passwords.ts';

const zxcvbn = new ZxcvbnFactory({
  dictionary: { ...common.dictionary, ...english.dictionary },
  graphs: common.adjacencyGraphs,
  translations: english.translations,
});

parentPort?.on('message', ({ id, password, about }: EstimateRequest) => {
  const { score, feedback } = zxcvbn.check(password, [...about]);
  const advice = [feedback.warning, ...feedback.suggestions].filter(Boolean).join(' ');
  // A thread has no origin.
  // oxlint-disable-next-line unicorn/require-post-message-target-origin
  parentPort?.postMessage({ id, score, advice } satisfies EstimateAnswer);
});
