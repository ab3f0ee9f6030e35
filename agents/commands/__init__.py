"""Commands in which agents play and a page of the results is written: `zerosearch eval` and `zerosearch ask`."""
